"""Networks and folders of diffusers."""

import pytest


@pytest.fixture(scope="session")
def networks():
    """Small networks of diffusers by number of channels."""
    pytest.importorskip("diffusers")
    from tests.denoiser.diffusers_folders import unet

    return {c: unet(c) for c in (1, 3)}


@pytest.fixture
def folder(tmp_path, networks):
    """The folder of a DDPMPipeline with default settings."""
    from tests.denoiser.diffusers_folders import saved

    return saved(tmp_path / "pipe", networks[1])
