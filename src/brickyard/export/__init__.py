"""Export models to files that run without brickyard: ONNX, torch's exported programs and AOTInductor packages."""
