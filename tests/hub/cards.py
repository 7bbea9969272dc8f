"""What the Hub refuses in a model card's metadata, as far as its public documentation and issues tell."""

from __future__ import annotations

import re
from typing import Any

import yaml

# The identifiers of https://huggingface.co/docs/hub/repositories-licenses.
LICENSES = frozenset(
    """afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m bsd
    bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
    cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
    cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0
    creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 gemma gfdl gpl gpl-2.0
    gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail
    openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib""".split()  # noqa: SIM905
)
_METADATA = re.compile(r"\s*---[\r\n]+(.*?)[\r\n]+---(\r?\n|$)", re.DOTALL)
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_card(content: str) -> tuple[list[str], list[str]]:
    """The errors and the warnings that the Hub has for a README.md."""
    block = _METADATA.match(content)
    if block is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        return [f"YAML metadata is not valid: {error}"], []
    if not isinstance(data, dict):
        return ["YAML metadata must be an object"], []
    if data.get("base_model_relation", "adapter") not in {"adapter", "finetune", "merge", "quantized"}:
        return ['"base_model_relation" must be one of [adapter, finetune, merge, quantized]'], []
    return _check_strings(data) + _check_model_index(data.get("model-index", [])), []


def _check_strings(data: dict[str, Any]) -> list[str]:
    errors = [] if isinstance(data.get("tags", []), list) else ['"tags" must be an array']
    for key in ("license", "tags", "datasets", "base_model", "language", "metrics"):
        values = data.get(key, [])
        for value in values if isinstance(values, list) else [values]:
            if key == "license" and value not in LICENSES:
                errors.append(f'"license" must be one of [{", ".join(sorted(LICENSES))}]')
            elif not isinstance(value, str):
                errors.append(f'"{key}" must be a string')
            elif key == "base_model" and not _HUB_ID.fullmatch(value):
                errors.append(f'"base_model" with value "{value}" is not valid. Use a model id from the Hub.')
    return errors


def _check_model_index(models: Any) -> list[str]:
    if not isinstance(models, list):
        return ['"model-index" must be an array']
    errors = []
    for index, model in enumerate(models):
        errors += [f'"model-index[{index}].{key}" is required' for key in ("name", "results") if key not in model]
        for result in model.get("results", []):
            missing = [key for key in ("task", "dataset", "metrics") if key not in result]
            errors += [f'"model-index[{index}].results" need "{key}"' for key in missing]
    return errors
