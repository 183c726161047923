"""BibTeX of what a release is built on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfumato.methods.registry import find_method, method_names

ENCODERS = {
    "efficientnet-lite0": """\
@inproceedings{tan2019efficientnet,
  title     = {{EfficientNet}: Rethinking Model Scaling for Convolutional Neural Networks},
  author    = {Tan, Mingxing and Le, Quoc V.},
  booktitle = {International Conference on Machine Learning},
  year      = {2019},
  note      = {arXiv:1905.11946}
}""",
}
ACCOUNTANT = """\
@article{doroshenko2022connect,
  title   = {Connect the Dots: Tighter Discrete Approximations of Privacy Loss Distributions},
  author  = {Doroshenko, Vadym and Ghazi, Badih and Kamath, Pritish and Kumar, Ravi and
             Manurangsi, Pasin},
  journal = {Proceedings on Privacy Enhancing Technologies},
  year    = {2022},
  note    = {arXiv:2207.04380}
}"""
NOISE = """\
@inproceedings{canonne2020discrete,
  title     = {The Discrete {Gaussian} for Differential Privacy},
  author    = {Canonne, Cl{\\'e}ment L. and Kamath, Gautam and Steinke, Thomas},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020},
  note      = {arXiv:2004.00010}
}"""
OPENDP = """\
@inproceedings{gaboardi2020opendp,
  title     = {A Programming Framework for {OpenDP}},
  author    = {Gaboardi, Marco and Hay, Michael and Vadhan, Salil},
  booktitle = {6th Workshop on the Theory and Practice of Differential Privacy},
  year      = {2020}
}"""
"""Drew the noise of version 0.1.0."""
SOFTWARE = """\
@software{sfumato,
  title   = {sfumato: Synthetic Images with a Proven Differential-Privacy Guarantee},
  author  = {{The sfumato authors}},
  version = {%s}
}"""


def citations(certificate: Mapping[str, Any]) -> list[str]:
    """The BibTeX entries of a release: sfumato, its method, public encoder, accountant, noise."""
    encoder = certificate["encoder"] or {}
    entries = [
        SOFTWARE % certificate["sfumato"],
        _of_method(certificate["method"]["name"]),
        ENCODERS.get(encoder.get("name", "")),
    ]
    drawn = certificate["noise"]
    noise = [NOISE] if "discrete Gaussian" in drawn else []
    library = [OPENDP] if "OpenDP" in drawn else []
    return [entry for entry in entries if entry] + [ACCOUNTANT, *noise, *library]


def _of_method(name: str) -> str:
    return find_method(name).citation if name in method_names() else ""


def about_method(name: str) -> str:
    """What the method itself says of its images; empty where it is not installed here."""
    return find_method(name).card if name in method_names() else ""
