"""What the tensors that travel give away: inversion and membership, per split and privacy mode.

`splitfed audit` attacks a party's own model and images at home, before anything leaves. It is above
:mod:`splitfed.run` so that no run can import it: noise is drawn here from a seed, which a release
must never do. `make audit` is another thing: it tries to refute the claimed ε.
"""

from __future__ import annotations

from splitfed.leakage.measuring import Effort, measure
from splitfed.leakage.page import write_page
from splitfed.leakage.subject import Subject, subject_of

__all__ = ["Effort", "Subject", "measure", "subject_of", "write_page"]
