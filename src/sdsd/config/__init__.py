"""The configuration of a run.

`schema` and `model_schema` declare the keys, `keys` answers questions about them, `loading` reads a
file and `checking` refuses contradictions; `writing` gives YAML, the digest, explanations and a
JSON schema.
"""

from sdsd.config.checking import check_parts
from sdsd.config.keys import is_execution
from sdsd.config.loading import anchored, assignment, load, read
from sdsd.config.model_schema import ModelConfig, PriceConfig, ThinkingMode
from sdsd.config.schema import (
    EXCLUDED_RULES,
    TOP_P,
    BalanceConfig,
    BudgetConfig,
    CatalogueConfig,
    Config,
    ContaminationConfig,
    CriticConfig,
    CritiqueConfig,
    DialogueConfig,
    DuplicatesConfig,
    ExportConfig,
    JudgeMethod,
    PairFilterConfig,
    PlanConfig,
    ReviseConfig,
    ScenariosConfig,
    SplitsConfig,
    TargetsConfig,
    Vote,
)
from sdsd.config.writing import (
    EXPERIMENT,
    MINIMAL,
    differences,
    digest,
    dump,
    explained,
    flat,
    json_schema,
    json_schema_text,
    tree,
)

__all__ = [
    "EXCLUDED_RULES",
    "EXPERIMENT",
    "MINIMAL",
    "TOP_P",
    "BalanceConfig",
    "BudgetConfig",
    "CatalogueConfig",
    "Config",
    "ContaminationConfig",
    "CriticConfig",
    "CritiqueConfig",
    "DialogueConfig",
    "DuplicatesConfig",
    "ExportConfig",
    "JudgeMethod",
    "ModelConfig",
    "PairFilterConfig",
    "PlanConfig",
    "PriceConfig",
    "ReviseConfig",
    "ScenariosConfig",
    "SplitsConfig",
    "TargetsConfig",
    "ThinkingMode",
    "Vote",
    "anchored",
    "assignment",
    "check_parts",
    "differences",
    "digest",
    "dump",
    "explained",
    "flat",
    "is_execution",
    "json_schema",
    "json_schema_text",
    "load",
    "read",
    "tree",
]
