"""Consent to code where several users have one cache."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from scpl_ray.config import Experiment
from scpl_ray.storage import consent
from scpl_ray.storage.errors import StoreError

CUSTOM = {"feedback": {"rule": "custom", "function": "evil_rules:rule"}}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_users_who_share_a_cache_agree_each_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment.model_validate(CUSTOM)

    def asked() -> bool:
        try:
            consent.require("abc", [experiment], {}, "RUN", "say {keys}")
        except StoreError as error:
            assert "RUN: was not begun here" in str(error)
            return True
        return False

    with tempfile.TemporaryDirectory() as shared:
        Path(shared).chmod(0o777)
        monkeypatch.setenv("SCPL_CACHE", shared)
        consent.give("abc", experiment)
        assert not asked()
        first, second = os.geteuid(), 65534
        (own,) = Path(shared).glob("consents*")
        for name in (own.name, "consents"):  # as this version names it, and as earlier ones did
            own = own.rename(Path(shared, name))
            os.seteuid(second)
            try:
                assert asked() and consent.folder("abc", experiment) is None, name
            finally:
                os.seteuid(first)
            assert not asked() and consent.folder("abc", experiment) == Path.cwd()
        os.seteuid(second)
        try:
            consent.give("abc", experiment)
            assert not asked() and consent.folder("abc", experiment) == Path.cwd()
        finally:
            os.seteuid(first)
        # what another user puts there is no consent of this one
        shutil.rmtree(Path(shared, "consents"))
        Path(shared, f"consents-{second}").rename(Path(shared, f"consents-{first}"))
        assert asked()
