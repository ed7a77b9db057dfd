"""The config: one JSON file that says everything about a run, checked before anything heavy is imported.

`load_config` reads and checks a file, `config_problems` holds its components against the live classes, and
`Kind.build` makes them.
"""

from utils.config.catalogue import build_schema, catalogue_problems, load_catalogue, schema_text
from utils.config.components import Kind, Nested, config_problems
from utils.config.load import (
    ABSENT,
    Change,
    apply_overrides,
    config_from_dict,
    differences,
    is_about,
    load_config,
    read_run_config,
    tree_changes,
)
from utils.config.schema import Component, Config
from utils.config.where import says_where

__all__ = [
    "ABSENT",
    "Change",
    "Component",
    "Config",
    "Kind",
    "Nested",
    "apply_overrides",
    "build_schema",
    "catalogue_problems",
    "config_from_dict",
    "config_problems",
    "differences",
    "is_about",
    "load_catalogue",
    "load_config",
    "read_run_config",
    "says_where",
    "schema_text",
    "tree_changes",
]
