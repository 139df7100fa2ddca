"""The YAML that declares models: reads it, says what is wrong with it and where, lowers it to a `plan.Target`.

load(files) -> Target        raises InvalidSpec (a SpecError) with every problem: file, line, column, message
json_schema() -> dict        the JSON Schema of a file, for editors
Repository(folders)          models in Triton's layout as sources of YAML; ModelFiles: the same for load requests
"""

from serving.spec.contents import changed
from serving.spec.json_schema import json_schema
from serving.spec.load import Source, load, parse
from serving.spec.model_files import ModelFiles
from serving.spec.problem import InvalidSpec, Problem
from serving.spec.repository import Repository

__all__ = ["InvalidSpec", "ModelFiles", "Problem", "Repository", "Source", "changed", "json_schema", "load", "parse"]
