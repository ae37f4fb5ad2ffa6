"""The two files of a federation: federation.toml (agreed) and party.toml (one's own).

Importing this package does not import torch.
"""

from __future__ import annotations

from splitfed.config.aggregation import (
    NEEDS,
    AggregationConfig,
    RootConfig,
    members_needed,
    rule_findings,
    too_few,
)
from splitfed.config.contract import canonical_json, digest_of
from splitfed.config.faults import parse
from splitfed.config.federation import (
    FederationConfig,
    InitialConfig,
    ModelConfig,
    PreprocessingConfig,
)
from splitfed.config.fusion import FusionConfig, OwnFusionConfig, ReferenceConfig
from splitfed.config.load import file_digest, load_federation, load_party
from splitfed.config.parties import RetiredKey, RosterEntry
from splitfed.config.party import (
    DataConfig,
    DefenceConfig,
    FederatedTrainingConfig,
    LinkConfig,
    OwnModelConfig,
    PartyConfig,
    TrainingConfig,
)
from splitfed.config.privacy import (
    DP_SGD,
    MODES,
    NO_PRIVACY,
    NO_PRIVACY_FUSED,
    NO_PRIVACY_OUTPUTS,
    REFUSED,
    PrivacyConfig,
)
from splitfed.config.values import split_endpoint
from splitfed.differences import differences

__all__ = [
    "DP_SGD",
    "MODES",
    "NEEDS",
    "NO_PRIVACY",
    "NO_PRIVACY_FUSED",
    "NO_PRIVACY_OUTPUTS",
    "REFUSED",
    "AggregationConfig",
    "DataConfig",
    "DefenceConfig",
    "FederatedTrainingConfig",
    "FederationConfig",
    "FusionConfig",
    "InitialConfig",
    "LinkConfig",
    "ModelConfig",
    "OwnFusionConfig",
    "OwnModelConfig",
    "PartyConfig",
    "PreprocessingConfig",
    "PrivacyConfig",
    "ReferenceConfig",
    "RetiredKey",
    "RootConfig",
    "RosterEntry",
    "TrainingConfig",
    "canonical_json",
    "differences",
    "digest_of",
    "file_digest",
    "load_federation",
    "load_party",
    "members_needed",
    "parse",
    "rule_findings",
    "split_endpoint",
    "too_few",
]
