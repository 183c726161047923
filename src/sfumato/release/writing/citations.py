"""BibTeX of what a release is built on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METHODS = {
    "mepf": """\
@article{harder2023pretrained,
  title   = {Pre-trained Perceptual Features Improve Differentially Private Image Generation},
  author  = {Harder, Fredrik and Jalali Asadabadi, Milad and Sutherland, Danica J. and
             Park, Mijung},
  journal = {Transactions on Machine Learning Research},
  year    = {2023},
  note    = {arXiv:2205.12900}
}""",
    "dpdm": """\
@article{dockhorn2023differentially,
  title   = {Differentially Private Diffusion Models},
  author  = {Dockhorn, Tim and Cao, Tianshi and Vahdat, Arash and Kreis, Karsten},
  journal = {Transactions on Machine Learning Research},
  year    = {2023},
  note    = {arXiv:2210.09929}
}""",
    "dpaf": """\
@article{lin2023dpaf,
  title   = {{DPAF}: Image Synthesis via Differentially Private Aggregation in Forward Phase},
  author  = {Lin, Chih-Hsun and Hsu, Chia-Yi and Yu, Chia-Mu and Cao, Yang and
             Huang, Chun-Ying},
  journal = {arXiv preprint},
  year    = {2023},
  note    = {arXiv:2304.12185}
}""",
    "datalens": """\
@inproceedings{wang2021datalens,
  title     = {{DataLens}: Scalable Privacy Preserving Training via Gradient Compression and
               Aggregation},
  author    = {Wang, Boxin and Wu, Fan and Long, Yunhui and Rimanic, Luka and Zhang, Ce and
               Li, Bo},
  booktitle = {ACM SIGSAC Conference on Computer and Communications Security},
  year      = {2021},
  note      = {arXiv:2103.11109}
}""",
    "dpgan": """\
@article{bie2023private,
  title   = {Private {GAN}s, Revisited},
  author  = {Bie, Alex and Kamath, Gautam and Zhang, Guojun},
  journal = {Transactions on Machine Learning Research},
  year    = {2023},
  note    = {arXiv:2302.02936}
}""",
}
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
LIBRARY = """\
@inproceedings{gaboardi2020opendp,
  title     = {A Programming Framework for {OpenDP}},
  author    = {Gaboardi, Marco and Hay, Michael and Vadhan, Salil},
  booktitle = {6th Workshop on the Theory and Practice of Differential Privacy},
  year      = {2020}
}"""
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
        METHODS.get(certificate["method"]["name"]),
        ENCODERS.get(encoder.get("name", "")),
    ]
    noise = [NOISE, LIBRARY] if "OpenDP" in certificate["noise"] else []
    return [entry for entry in entries if entry] + [ACCOUNTANT, *noise]
