// The demo of a model's page: runs the exported model in the browser with onnxruntime-web, and draws its results.
//
// `demo.json` states what to do: the image input and the heads, as in the metadata of the exported file, and where the
// runtime is. Images are resized as Pillow does it, and results are those of `brickyard.Predictor`. No image leaves the
// browser. Names come from strangers: they are written as text only.

const element = (id) => document.getElementById(id);
const app = element("demo-app");
const percent = (value) => `${(100 * value).toFixed(1)}%`;

// ---------------------------------------------------------------------------------------------------------- images

const MIN_SIDE = 8; // pixels, and the largest aspect ratio: as brickyard.data.images
const MAX_ASPECT = 100;
const PRECISION_BITS = 22; // of the weights in Pillow's resampling of 8-bit images
const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: bicubic },
};

/** Pillow's bicubic filter, a = -0.5. */
function bicubic(x) {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

/** Round half to even, as Python does. */
function roundHalfEven(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

/** Draw an image or a video frame on white, and return the canvas. */
function toCanvas(source, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0, width, height);
  return canvas;
}

/** Return the pixels of a canvas with 3 channels (RGB) or 1 (the luma of ITU-R 601-2, as Pillow computes it). */
function readPixels(canvas, channels) {
  const { width, height } = canvas;
  const rgba = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height * channels);
  for (let i = 0, j = 0; i < rgba.length; i += 4) {
    if (channels === 1) {
      data[j++] = (19595 * rgba[i] + 38470 * rgba[i + 1] + 7471 * rgba[i + 2] + 0x8000) >> 16;
    } else {
      data[j++] = rgba[i];
      data[j++] = rgba[i + 1];
      data[j++] = rgba[i + 2];
    }
  }
  return { data, width, height, channels };
}

/** Return for each output position the first input position, the number of weights, and the weights as integers. */
function resampleWeights(size, newSize, { support, weight }) {
  const scale = size / newSize;
  const filterScale = Math.max(scale, 1);
  const reach = support * filterScale;
  const most = Math.ceil(reach) * 2 + 1;
  const starts = new Int32Array(newSize);
  const counts = new Int32Array(newSize);
  const weights = new Int32Array(newSize * most);
  for (let position = 0; position < newSize; position++) {
    const center = (position + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - reach + 0.5));
    const count = Math.min(size, Math.trunc(center + reach + 0.5)) - start;
    const values = Array.from({ length: count }, (_, i) => weight((i + start - center + 0.5) / filterScale));
    const total = values.reduce((sum, value) => sum + value, 0);
    values.forEach((value, i) => {
      const share = (total === 0 ? value : value / total) * 2 ** PRECISION_BITS;
      weights[position * most + i] = Math.trunc(share + (share < 0 ? -0.5 : 0.5));
    });
    starts[position] = start;
    counts[position] = count;
  }
  return { starts, counts, weights, most };
}

/** Resize along one axis. `count` lines of `size` pixels become lines of `newSize`; strides are numbers of values. */
function resampleAxis(data, out, { count, size, newSize, channels, lineStride, pixelStride, newLineStride, newPixelStride, filter }) {
  const { starts, counts, weights, most } = resampleWeights(size, newSize, filter);
  for (let line = 0; line < count; line++) {
    for (let position = 0; position < newSize; position++) {
      const from = line * lineStride + starts[position] * pixelStride;
      const to = line * newLineStride + position * newPixelStride;
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (PRECISION_BITS - 1);
        for (let i = 0; i < counts[position]; i++) {
          sum += data[from + i * pixelStride + channel] * weights[position * most + i];
        }
        out[to + channel] = Math.min(255, Math.max(0, sum >> PRECISION_BITS));
      }
    }
  }
}

/** Resize an image with antialiasing, equal to Pillow's `Image.resize`: first the width, then the height. */
function resize(image, width, height, interpolation) {
  const filter = FILTERS[interpolation];
  const { channels } = image;
  let { data } = image;
  if (width !== image.width) {
    const out = new Uint8Array(width * image.height * channels);
    resampleAxis(data, out, {
      count: image.height, size: image.width, newSize: width, channels, filter,
      lineStride: image.width * channels, pixelStride: channels,
      newLineStride: width * channels, newPixelStride: channels,
    });
    data = out;
  }
  if (height !== image.height) {
    const out = new Uint8Array(width * height * channels);
    resampleAxis(data, out, {
      count: width, size: image.height, newSize: height, channels, filter,
      lineStride: channels, pixelStride: width * channels,
      newLineStride: channels, newPixelStride: width * channels,
    });
    data = out;
  }
  return { data, width, height, channels };
}

/**
 * Resize, crop and pad an image as the model wants it.
 *
 * Returns `values`, the (1, C, H, W) input in [0, 1], and `geometry`: the size of the image, that of the input, and the
 * window of the input that shows the image.
 */
function preprocess(image, spec) {
  const [height, width] = spec.size;
  let content = { top: 0, left: 0, height, width };
  let resized;
  if (spec.resize_mode === "letterbox") {
    const scale = Math.min(height / image.height, width / image.width);
    content.height = Math.max(1, roundHalfEven(image.height * scale));
    content.width = Math.max(1, roundHalfEven(image.width * scale));
    content.top = Math.floor((height - content.height) / 2);
    content.left = Math.floor((width - content.width) / 2);
    resized = resize(image, content.width, content.height, spec.interpolation);
  } else if (spec.resize_mode === "squash") {
    resized = resize(image, Math.floor(width / spec.crop_pct), Math.floor(height / spec.crop_pct), spec.interpolation);
  } else {
    const side = Math.floor(width / spec.crop_pct); // of the shorter side, for a square
    const longer = Math.trunc((side * Math.max(image.width, image.height)) / Math.min(image.width, image.height));
    const isWide = image.width > image.height;
    resized = resize(image, isWide ? longer : side, isWide ? side : longer, spec.interpolation);
  }
  const isPadded = spec.resize_mode === "letterbox";
  const top = isPadded ? -content.top : roundHalfEven((resized.height - height) / 2);
  const left = isPadded ? -content.left : roundHalfEven((resized.width - width) / 2);
  const { channels } = resized;
  const values = new Float32Array(channels * height * width).fill(spec.fill);
  for (let y = Math.max(0, -top); y < Math.min(height, resized.height - top); y++) {
    for (let x = Math.max(0, -left); x < Math.min(width, resized.width - left); x++) {
      for (let channel = 0; channel < channels; channel++) {
        const value = resized.data[((y + top) * resized.width + x + left) * channels + channel];
        values[(channel * height + y) * width + x] = value / 255;
      }
    }
  }
  return { values, geometry: { width: image.width, height: image.height, frame: { height, width }, content } };
}

// --------------------------------------------------------------------------------- from the model's input to the image

const toImageX = (x, { width, content }) => ((x - content.left) * width) / content.width;
const toImageY = (y, { height, content }) => ((y - content.top) * height) / content.height;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function toImageBox([x1, y1, x2, y2], geometry) {
  const { width, height } = geometry;
  return [
    clamp(toImageX(x1, geometry), 0, width), clamp(toImageY(y1, geometry), 0, height),
    clamp(toImageX(x2, geometry), 0, width), clamp(toImageY(y2, geometry), 0, height),
  ];
}

/** Return for each of `count` pixels the nearest of `size` pixels from `start` on. */
function nearest(count, start, size) {
  return Int32Array.from({ length: count }, (_, i) => start + Math.min(size - 1, Math.floor(((i + 0.5) * size) / count)));
}

/** Return the rows and columns of a dense output of the model that the pixels of the image show. */
function denseIndices({ width, height, content }) {
  return { rows: nearest(height, content.top, content.height), columns: nearest(width, content.left, content.width) };
}

/** Interpolate a map (h, w) at rows `ys` and columns `xs`, where the first cell spans [0, 1]. */
function sample({ data, width, height }, ys, xs) {
  const out = new Float32Array(ys.length * xs.length);
  const locate = (position, length) => {
    const low = Math.floor(position - 0.5);
    return [clamp(low, 0, length - 1), clamp(low + 1, 0, length - 1), position - 0.5 - low];
  };
  const columns = Array.from(xs, (x) => locate(x, width));
  ys.forEach((y, i) => {
    const [above, below, share] = locate(y, height);
    columns.forEach(([left, right, part], j) => {
      const first = data[above * width + left] * (1 - share) + data[below * width + left] * share;
      const second = data[above * width + right] * (1 - share) + data[below * width + right] * share;
      out[i * xs.length + j] = first * (1 - part) + second * part;
    });
  });
  return { data: out, width: xs.length, height: ys.length };
}

/** Crop a map that covers the model's input to the part that shows the image. */
function coverContent(map, { frame, content }) {
  if (content.height === frame.height && content.width === frame.width) return map;
  const scaleY = map.height / frame.height;
  const scaleX = map.width / frame.width;
  const height = Math.max(1, roundHalfEven(content.height * scaleY));
  const width = Math.max(1, roundHalfEven(content.width * scaleX));
  const ys = Array.from({ length: height }, (_, i) => (content.top + ((i + 0.5) * content.height) / height) * scaleY);
  const xs = Array.from({ length: width }, (_, i) => (content.left + ((i + 0.5) * content.width) / width) * scaleX);
  return sample(map, ys, xs);
}

/** Return the pixels of an object in an image of a size: those in its box where its map is above 0.5. */
function pasteMask(map, [x1, y1, x2, y2], width, height) {
  const centers = (low, high, length) => {
    const start = clamp(Math.ceil(low - 0.5), 0, length);
    return Array.from({ length: Math.max(0, clamp(Math.ceil(high - 0.5), 0, length) - start) }, (_, i) => start + i + 0.5);
  };
  const ys = centers(y1, y2, height);
  const xs = centers(x1, x2, width);
  const { data } = sample(map, ys.map((y) => (y * map.height) / height), xs.map((x) => (x * map.width) / width));
  return { left: (xs[0] ?? 0.5) - 0.5, top: (ys[0] ?? 0.5) - 0.5, width: xs.length, height: ys.length, data };
}

/** Encode pixels as COCO's run lengths: column by column, alternately the number of 0 and of 1. */
function runLengths(width, height, isSet) {
  const counts = [];
  let last = false;
  let run = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      if (isSet(x, y) !== last) {
        counts.push(run);
        run = 0;
        last = !last;
      }
      run++;
    }
  }
  counts.push(run);
  return { size: [height, width], counts };
}

// ------------------------------------------------------------------------------------------------ results by task
//
// A view takes a head of demo.json, its outputs by name and the geometry, and returns
//   rows    what the list shows: {label, value in [0, 1] or null, text, color}
//   paint   draws over the image, which fills the canvas; null for tasks that draw nothing
//   results what `brickyard predict` writes for the head, as a function, since run lengths take time

const POINT_THRESHOLD = 0.3; // key points with a lower score are not drawn
const ANOMALOUS = 0.5; // the score of an anomalous image, and of an anomalous pixel
const ANOMALY_COLORS = [[0, 0, 96], [32, 96, 255], [255, 224, 32], [255, 96, 0], [192, 0, 0]];
const DEPTH_COLORS = [[252, 253, 191], [252, 137, 97], [183, 55, 121], [81, 18, 124], [0, 0, 4]];
const css = (color, opacity = 1) => `rgb(${color[0]} ${color[1]} ${color[2]} / ${opacity})`;

/** Return the colour of a value in [0, 1] on a scale. */
function colorOf(value, scale) {
  const position = clamp(value, 0, 1) * (scale.length - 1);
  const low = Math.min(scale.length - 2, Math.floor(position));
  return scale[low].map((channel, i) => channel + (scale[low + 1][i] - channel) * (position - low));
}

/** Draw a dense output over the canvas: `colorAt(index)` is a colour with opacity, or null. */
function paintDense(context, geometry, colorAt, smooth) {
  const { frame, content } = geometry;
  const layer = document.createElement("canvas");
  layer.width = content.width;
  layer.height = content.height;
  const pixels = new ImageData(content.width, content.height);
  for (let y = 0, to = 0; y < content.height; y++) {
    for (let x = 0; x < content.width; x++, to += 4) {
      const color = colorAt((y + content.top) * frame.width + x + content.left);
      if (color) pixels.data.set([color[0], color[1], color[2], 255 * color[3]], to);
    }
  }
  layer.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = smooth;
  context.drawImage(layer, 0, 0, context.canvas.width, context.canvas.height);
}

/** Return the indices of results within the limits of a head, best first. */
function selected(scores, { threshold, topk }) {
  const order = Array.from(scores.keys()).filter((index) => scores[index] >= threshold);
  return order.sort((a, b) => scores[b] - scores[a] || a - b).slice(0, topk ?? undefined);
}

function classification(head, outputs) {
  const results = selected(outputs.probabilities, head).map((index) => ({
    label: head.labels[index], class: index, probability: outputs.probabilities[index],
  }));
  const rows = results.map(({ label, probability }) => ({ label, value: probability, text: percent(probability) }));
  return { rows, paint: null, results: () => results };
}

function segmentation(head, outputs, geometry) {
  const classes = outputs.class_prediction;
  const { rows: ys, columns: xs } = denseIndices(geometry);
  const { frame, width, height } = geometry;
  const pixels = new Array(head.labels.length).fill(0);
  for (const y of ys) for (const x of xs) pixels[classes[y * frame.width + x]]++;
  const present = Array.from(pixels.keys()).filter((index) => pixels[index] > 0).sort((a, b) => pixels[b] - pixels[a] || a - b);
  const share = (index) => pixels[index] / (width * height);
  return {
    rows: present.map((index) => ({
      label: head.labels[index], value: share(index), text: percent(share(index)), color: head.colors[index],
    })),
    paint: (context) => paintDense(context, geometry, (i) => head.colors[classes[i]] && [...head.colors[classes[i]], 0.55], false),
    results: () => present.map((index) => ({
      label: head.labels[index], class: index, share: share(index),
      segmentation: runLengths(width, height, (x, y) => classes[ys[y] * frame.width + xs[x]] === index),
    })),
  };
}

/** Boxes, with masks and key points where the head has them. */
function detection(head, outputs, geometry, shapes) {
  const { boxes, scores, labels, masks, keypoints } = outputs;
  const candidates = Array.from(scores, (score, index) => (labels[index] >= 0 ? score : -1));
  const kept = selected(candidates, { threshold: Math.max(0, head.threshold), topk: head.topk });
  const [maskHeight, maskWidth] = masks ? shapes.masks.slice(-2) : [0, 0];
  const points = keypoints ? shapes.keypoints.at(-2) : 0;
  const objects = kept.map((index) => {
    const object = {
      label: head.labels[labels[index]], class: labels[index], score: scores[index],
      box: toImageBox(boxes.slice(4 * index, 4 * index + 4), geometry),
    };
    if (keypoints) {
      object.keypoints = Array.from({ length: points }, (_, i) => {
        const [x, y, score] = keypoints.slice(3 * (index * points + i), 3 * (index * points + i) + 3);
        return [toImageX(x, geometry), toImageY(y, geometry), score];
      });
    }
    return object;
  });
  const maps = masks && kept.map((index) => {
    const data = masks.subarray(index * maskHeight * maskWidth, (index + 1) * maskHeight * maskWidth);
    return coverContent({ data, width: maskWidth, height: maskHeight }, geometry);
  });
  const withMask = (object, index) => {
    const { left, top, width, height, data } = pasteMask(maps[index], object.box, geometry.width, geometry.height);
    const isSet = (x, y) => x >= left && x < left + width && y >= top && y < top + height && data[(y - top) * width + x - left] > 0.5;
    return { ...object, segmentation: runLengths(geometry.width, geometry.height, isSet) };
  };
  return {
    rows: objects.map(({ label, score, class: index }) => ({ label, value: score, text: percent(score), color: head.colors[index] })),
    paint: (context, unit) => {
      const scale = context.canvas.width / geometry.width;
      for (let index = objects.length - 1; index >= 0; index--) { // the best last, on top
        const { box, label, score, class: of, keypoints: joints } = objects[index];
        const place = box.map((side) => side * scale);
        if (maps) paintMask(context, maps[index], place, head.colors[of]);
        if (joints) paintJoints(context, joints, head.keypoints, scale, unit);
        paintBox(context, place, `${label} ${Math.round(100 * score)}%`, head.colors[of] ?? [24, 26, 31], unit);
      }
    },
    results: () => (maps ? objects.map(withMask) : objects),
  };
}

function paintMask(context, map, box, color) {
  const { canvas } = context;
  const { left, top, width, height, data } = pasteMask(map, box, canvas.width, canvas.height);
  if (!width || !height) return;
  const layer = document.createElement("canvas");
  layer.width = width;
  layer.height = height;
  const pixels = new ImageData(width, height);
  data.forEach((value, i) => value > 0.5 && pixels.data.set([...color, 128], 4 * i));
  layer.getContext("2d").putImageData(pixels, 0, 0);
  context.drawImage(layer, left, top);
}

function paintJoints(context, joints, { colors, skeleton }, scale, unit) {
  const isShown = joints.map(([, , score]) => score >= POINT_THRESHOLD);
  context.lineWidth = 3 * unit;
  for (const [first, second] of skeleton) {
    if (!isShown[first] || !isShown[second]) continue;
    context.strokeStyle = css(colors[second]);
    context.beginPath();
    context.moveTo(joints[first][0] * scale, joints[first][1] * scale);
    context.lineTo(joints[second][0] * scale, joints[second][1] * scale);
    context.stroke();
  }
  joints.forEach(([x, y], i) => isShown[i] && paintDot(context, x * scale, y * scale, colors[i], unit));
}

function paintBox(context, [x1, y1, x2, y2], text, color, unit) {
  context.lineWidth = 2.5 * unit;
  context.strokeStyle = css(color);
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  paintTag(context, x1, y1, text, color, unit);
}

/** Write a text on a coloured ground above a point, or below it at the upper side of the image. */
function paintTag(context, x, y, text, color, unit) {
  const size = 13 * unit;
  context.font = `${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const width = context.measureText(text).width + size * 0.6;
  const height = size * 1.4;
  const left = clamp(x, 0, Math.max(0, context.canvas.width - width));
  const top = y >= height ? y - height : Math.max(0, y);
  context.fillStyle = css(color);
  context.fillRect(left, top, width, height);
  context.fillStyle = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 128 ? "black" : "white";
  context.fillText(text, left + size * 0.3, top + height / 2);
}

function paintDot(context, x, y, color, unit) {
  context.beginPath();
  context.arc(x, y, 5 * unit, 0, 2 * Math.PI);
  context.fillStyle = css(color);
  context.strokeStyle = "black";
  context.lineWidth = 1.5 * unit;
  context.fill();
  context.stroke();
}

/** Return the view of points, each with a class. */
function pointView(head, results, lowest, geometry) {
  return {
    rows: results.map(({ label, score, class: index }) => ({ label, value: score, text: percent(score), color: head.colors[index] })),
    paint: (context, unit) => {
      const scale = context.canvas.width / geometry.width;
      for (const { x, y, score, class: index } of [...results].reverse()) {
        if (score >= lowest) paintDot(context, x * scale, y * scale, head.colors[index] ?? [24, 26, 31], unit);
      }
    },
    results: () => results,
  };
}

function point(head, { points, scores }, index, of, geometry) {
  const x = toImageX(points[2 * index], geometry);
  return { label: head.labels[of], class: of, score: scores[index], x, y: toImageY(points[2 * index + 1], geometry) };
}

function pointDetection(head, outputs, geometry) {
  const { scores, labels } = outputs;
  const candidates = Array.from(scores, (score, index) => (labels[index] >= 0 ? score : -1));
  const kept = selected(candidates, { threshold: Math.max(0, head.threshold), topk: head.topk });
  return pointView(head, kept.map((index) => point(head, outputs, index, labels[index], geometry)), 0, geometry);
}

function keypointDetection(head, { keypoints, scores }, geometry) {
  const results = selected(scores, head).map((index) => point(head, { points: keypoints, scores }, index, index, geometry));
  return pointView(head, results, POINT_THRESHOLD, geometry);
}

function anomaly(head, { map, score: [score] }, geometry) {
  const index = Number(score >= ANOMALOUS);
  const { frame, width, height } = geometry;
  const { rows: ys, columns: xs } = denseIndices(geometry);
  const isAnomalous = (x, y) => Number(map[ys[y] * frame.width + xs[x]] >= ANOMALOUS) === index;
  return {
    rows: [{ label: head.labels[index], value: score, text: `anomaly score ${score.toFixed(3)}` }],
    paint: (context) => paintDense(context, geometry, (i) => [...colorOf(map[i], ANOMALY_COLORS), 0.7 * clamp(map[i], 0, 1)], true),
    results: () => [{ label: head.labels[index], class: index, score, segmentation: runLengths(width, height, isAnomalous) }],
  };
}

function depthEstimation(head, { depth }, geometry) {
  const { rows: ys, columns: xs } = denseIndices(geometry);
  const values = new Float32Array(ys.length * xs.length);
  ys.forEach((y, i) => xs.forEach((x, j) => { values[i * xs.length + j] = depth[y * geometry.frame.width + x]; }));
  values.sort();
  const at = (share) => { // as numpy.percentile, which interpolates
    const position = share * (values.length - 1);
    const low = values[Math.floor(position)];
    return low + (values[Math.ceil(position)] - low) * (position % 1);
  };
  const summary = { nearest: at(0), median: at(0.5), farthest: at(1) };
  const [near, far] = [at(0.02), at(0.98)];
  return {
    rows: Object.entries(summary).map(([label, value]) => ({ label, value: null, text: value.toPrecision(3) })),
    paint: (context) => paintDense(
      context, geometry, (i) => [...colorOf((depth[i] - near) / Math.max(far - near, 1e-12), DEPTH_COLORS), 0.75], true,
    ),
    results: () => [{ label: head.labels[0], ...summary }],
  };
}

function embedding(head, { vector }) {
  const before = head.before; // the vector of the image before
  const rows = [{ label: "vector", value: null, text: `${vector.length} numbers` }];
  if (before) {
    const similarity = vector.reduce((sum, value, i) => sum + value * before[i], 0);
    rows.push({ label: "similarity to the image before", value: clamp(similarity, 0, 1), text: similarity.toFixed(3) });
  }
  return { rows, paint: null, results: () => [{ label: "vector", vector: Array.from(vector) }], next: () => { head.before = vector; } };
}

function textRecognition(head, { text, score: [score] }) {
  const read = Array.from(text).filter((index) => index >= 0).map((index) => head.labels[index]).join("");
  const results = score >= head.threshold ? [{ label: read, score }] : [];
  return { rows: results.map(() => ({ label: read || "(no text)", value: score, text: percent(score) })), paint: null, results: () => results };
}

const VIEWS = {
  cls: classification, seg: segmentation, det: detection, inst: detection, pose: detection, fomo: pointDetection,
  kpt: keypointDetection, anomaly, depth: depthEstimation, emb: embedding, ocr: textRecognition,
};
const DENSE = ["seg", "depth", "anomaly"]; // drawn first, below the others
const WITH_THRESHOLD = ["det", "inst", "pose", "fomo"];

// ------------------------------------------------------------------------------------------------------- the runtime

/** Fetch a file whose hash the browser checks. */
async function fetchChecked(url, integrity) {
  const response = await fetch(url, { integrity });
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response.arrayBuffer();
}

/** Import a module whose hash the browser checks; `import()` then returns the module that was loaded. */
async function importChecked(url, integrity) {
  await new Promise((resolve, reject) => {
    const script = document.createElement("script");
    Object.assign(script, { type: "module", src: url, integrity, crossOrigin: "anonymous" });
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${url} was not loaded, or is not the expected file.`));
    document.head.append(script);
  });
  return import(url);
}

/** Load the runtime and the model: a function from the values of an image to outputs by name. */
async function loadModel(config, base) {
  const url = (path) => new URL(path, base).href;
  const { module, moduleIntegrity, wasm, wasmIntegrity } = config.runtime;
  const [ort, binary, model] = await Promise.all([
    importChecked(url(module), moduleIntegrity),
    fetchChecked(url(wasm), wasmIntegrity),
    fetchChecked(url(config.model), ""),
  ]);
  ort.env.wasm.wasmBinary = binary;
  ort.env.wasm.numThreads = 1; // more need headers that a static host does not send
  const session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
  return async (values) => {
    const shape = [1, config.image.channels, ...config.image.size];
    const outputs = await session.run({ image: new ort.Tensor("float32", values, shape) });
    const data = (tensor) => (tensor.type === "int64" ? Int32Array.from(tensor.data, Number) : tensor.data);
    return Object.fromEntries(
      Object.entries(outputs).map(([name, tensor]) => [name, { data: data(tensor), shape: tensor.dims }]),
    );
  };
}

// ---------------------------------------------------------------------------------------------------------- the page

const state = { config: null, model: null, shown: null, camera: null, queue: Promise.resolve() };

/** Tell a step to all readers. */
function tell(text, isError = false) {
  element("demo-status").textContent = text;
  element("demo-status").classList.toggle("error", isError);
}

/** Analyse an image: a bitmap or a video. One runs after the other. */
function analyse(source, name, width, height) {
  const task = state.queue.then(() => run(source, name, width, height));
  state.queue = task.catch((error) => {
    console.warn(error);
    tell(`${name}: ${error.message}`, true);
    stopCamera();
  });
  return state.queue;
}

async function run(source, name, width, height) {
  const [short, long] = [Math.min(width, height), Math.max(width, height)];
  if (short < MIN_SIDE || long > MAX_ASPECT * short) {
    throw new Error(`${width}x${height} pixels, expected ${MIN_SIDE}x${MIN_SIDE} or more and at most ${MAX_ASPECT}:1.`);
  }
  if (!state.model) {
    tell(`Loading the model, ${(state.config.size / 1e6).toFixed(1)} MB ...`);
    state.model = await loadModel(state.config, document.baseURI);
  }
  if (!state.camera) tell(`${name}: running ...`);
  await new Promise((resolve) => setTimeout(resolve)); // lets the browser show the text
  const start = performance.now();
  const canvas = toCanvas(source, width, height);
  const { values, geometry } = preprocess(readPixels(canvas, state.config.image.channels), state.config.image);
  const outputs = await state.model(values);
  const duration = Math.round(performance.now() - start);
  Object.values(state.shown?.views ?? {}).forEach((view) => view.next?.());
  state.shown = { name, canvas, geometry, outputs, duration };
  show();
  tell(`${name}, ${width}x${height} pixels: ${duration} ms`);
}

/** Interpret the outputs of the image, and show them. */
function show() {
  const { outputs, geometry } = state.shown;
  state.shown.views = Object.fromEntries(
    Object.entries(state.config.heads).map(([name, head]) => {
      const own = Object.entries(outputs).filter(([output]) => output.startsWith(`${name}/`));
      const short = (output) => output.slice(name.length + 1);
      const data = Object.fromEntries(own.map(([output, tensor]) => [short(output), tensor.data]));
      const shapes = Object.fromEntries(own.map(([output, tensor]) => [short(output), tensor.shape]));
      const view = VIEWS[head.task] ?? (() => ({ rows: [], paint: null, results: () => [] }));
      return [name, view(head, data, geometry, shapes)];
    }),
  );
  paint();
  list();
  element("demo-save").disabled = false;
}

/** Draw the image with all results, at the resolution of the screen. */
function paint() {
  if (!state.shown) return;
  const { canvas: image, views } = state.shown;
  const canvas = element("demo-canvas");
  canvas.hidden = false;
  element("demo-hint").hidden = true;
  const pixels = Math.min(window.devicePixelRatio || 1, 2);
  const room = element("demo-drop").clientWidth;
  const width = Math.max(1, Math.min(room, (0.7 * window.innerHeight * image.width) / image.height));
  canvas.width = Math.round(width * pixels);
  canvas.height = Math.max(1, Math.round((canvas.width * image.height) / image.width));
  canvas.style.width = `${width}px`;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const isDense = ([name]) => DENSE.includes(state.config.heads[name].task);
  const order = Object.entries(views).sort((a, b) => isDense(b) - isDense(a));
  for (const [, view] of order) view.paint?.(context, pixels);
}

/** List the results of every head. */
function list() {
  const { name, views } = state.shown;
  const parts = Object.entries(views).map(([head, view]) => headList(head, view.rows));
  element("demo-results").replaceChildren(...parts);
  const best = Object.entries(views).map(([head, { rows }]) => `${head}: ${rows.slice(0, 3).map((row) => `${row.label} ${row.text}`).join(", ") || "nothing"}`);
  element("demo-canvas").setAttribute("aria-label", `${name}. ${best.join("; ")}`);
}

const MOST_ROWS = 12;

function headList(head, rows) {
  const part = document.createElement("div");
  part.append(create("h3", head));
  const items = create("ol", "");
  for (const { label, value, text, color } of rows.slice(0, MOST_ROWS)) {
    const item = create("li", "");
    const swatch = create("span", "", "swatch");
    if (color) swatch.style.backgroundColor = css(color);
    item.append(...(color ? [swatch] : []), create("span", label, "label"), create("span", text, "value"));
    if (value !== null) {
      const bar = create("span", "", "bar");
      bar.style.setProperty("--share", clamp(value, 0, 1));
      item.append(bar);
    }
    items.append(item);
  }
  part.append(rows.length ? items : create("p", "Nothing above the threshold."));
  if (rows.length > MOST_ROWS) part.append(create("p", `and ${rows.length - MOST_ROWS} more`));
  return part;
}

function create(tag, text, className = "") {
  const created = document.createElement(tag);
  created.textContent = text;
  if (className) created.className = className;
  return created;
}

/** Return what `brickyard predict` writes to predictions.json for the image, with masks as uncompressed run lengths. */
function results() {
  const { name, geometry, views } = state.shown;
  const heads = Object.entries(views).map(([head, view]) => [head, view.results()]);
  return { file: name, width: geometry.width, height: geometry.height, ...Object.fromEntries(heads) };
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify([results()], null, 2)], { type: "application/json" }));
  link.download = "predictions.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href));
}

async function openBlob(blob, name) {
  await stopCamera();
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    tell(`${name}: the browser cannot read it as an image.`, true);
    return;
  }
  await analyse(bitmap, name, bitmap.width, bitmap.height);
  bitmap.close();
}

async function openSample(button) {
  const name = button.textContent;
  try {
    await openBlob(new Blob([await fetchChecked(new URL(button.dataset.sample, document.baseURI).href, "")]), name);
  } catch (error) {
    tell(`${name}: ${error.message}`, true);
  }
}

async function startCamera() {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  const video = document.createElement("video");
  Object.assign(video, { muted: true, playsInline: true, srcObject: stream });
  await video.play();
  state.camera = stream;
  showCamera();
  element("demo-results").setAttribute("aria-live", "off"); // several results a second
  while (state.camera === stream) {
    await analyse(video, "camera", video.videoWidth, video.videoHeight);
    await new Promise((resolve) => requestAnimationFrame(resolve));
  }
}

async function stopCamera() {
  if (!state.camera) return;
  state.camera.getTracks().forEach((track) => track.stop());
  state.camera = null;
  showCamera();
  await state.queue;
  element("demo-results").setAttribute("aria-live", "polite");
}

function showCamera() {
  element("demo-camera").textContent = state.camera ? "Stop the camera" : "Use the camera";
  element("demo-camera").setAttribute("aria-pressed", String(Boolean(state.camera)));
}

/** Add a slider for the lowest score of each head with objects. */
function addThresholds() {
  for (const [name, head] of Object.entries(state.config.heads)) {
    if (!WITH_THRESHOLD.includes(head.task)) continue;
    const label = create("label", `Lowest score of ${name} `, "threshold");
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", min: 0.05, max: 0.95, step: 0.05, value: head.threshold });
    const value = create("output", Number(head.threshold).toFixed(2));
    slider.addEventListener("input", () => {
      head.threshold = Number(slider.value);
      value.textContent = head.threshold.toFixed(2);
      if (state.shown) show();
    });
    label.append(slider, value);
    document.querySelector("#demo-app .controls").append(label);
  }
}

function listen() {
  element("demo-file").addEventListener("change", ({ target }) => {
    const [file] = target.files;
    if (file) openBlob(file, file.name);
    target.value = ""; // so that the same file can be chosen again
  });
  document.querySelectorAll("#demo-app [data-sample]").forEach((button) => {
    button.addEventListener("click", () => openSample(button));
  });
  element("demo-camera").addEventListener("click", () => {
    if (state.camera) stopCamera();
    else startCamera().catch((error) => tell(`Camera: ${error.message}`, true));
  });
  if (!navigator.mediaDevices?.getUserMedia) element("demo-camera").hidden = true; // pages over http have none
  element("demo-save").addEventListener("click", save);
  const drop = element("demo-drop");
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) openBlob(file, file.name);
  });
  let room = 0;
  new ResizeObserver(() => {
    if (room !== drop.clientWidth) paint(); // not for the height, which follows from it
    room = drop.clientWidth;
  }).observe(drop);
}

async function start() {
  const response = await fetch(new URL(app.dataset.config, document.baseURI));
  if (!response.ok) throw new Error(`${response.url}: ${response.status} ${response.statusText}`);
  state.config = await response.json();
  addThresholds();
  listen();
  app.brickyardResults = results; // for scripts and tests
  app.hidden = false;
  element("demo-fallback").hidden = true;
}

start().catch((error) => tell(error.message, true));
