"""Addresses are shown without user and password, and tokens of the environment are never shown."""

import pytest

from alphabar.core.messages import explain, printable
from alphabar.core.run import Run
from alphabar.tracking.trackers import MLflow, error_line

SHOWN = {
    "http://anna:hunter22@mlflow.example:5000/api": "http://mlflow.example:5000/api",
    "postgresql+psycopg2://anna:hunt/er22@db/x failed": "postgresql+psycopg2://db/x failed",
    "https://anna:hun@ter22@[::1]:80": "https://[::1]:80",
    "ProxyError('http://anna:hunter22@proxy:3128', 'no')": "ProxyError('http://proxy:3128', 'no')",
    "two http://a:hunter22@b and http://c:hunter22@d": "two http://b and http://d",
    "https://host/x?api_key=hunter22&run=3": "https://host/x?api_key=***&run=3",
    "https://host/x?token=hunter22": "https://host/x?token=***",
    "the key hf_hunter22secret is refused": "the key *** is refused",
    "image @ 3 of http://host/a is fine": "image @ 3 of http://host/a is fine",
}


@pytest.mark.parametrize("text", SHOWN)
def test_messages_are_without_secrets(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hunter22secret")
    assert printable(text) == SHOWN[text]
    line = error_line(RuntimeError(f"{text}\nsecond line"))
    assert line == f"RuntimeError: {SHOWN[text]}"
    assert "hunter22" not in printable(explain(ValueError(text))[0])


def test_mlflow_says_where_without_password(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = MLflow(Run(tmp_path), {"run_id": "abc"})
    tracker.mlflow = type("Server", (), {"get_tracking_uri": lambda: "http://anna:hunter22@host:5000"})
    assert tracker.where() == "MLflow run abc at http://host:5000"
