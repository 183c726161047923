"""The names that DPDM's plan checks are those that its code knows."""

from __future__ import annotations

from sfumato.methods.dpdm import diffusion, parameterisations, settings


def test_names_of_parameterisations_and_samplers() -> None:
    assert set(settings.PARAMETERISATIONS) == set(parameterisations.PARAMETERISATIONS)
    assert set(settings.SAMPLERS) == set(diffusion.SAMPLERS)
