"""The AIXGO_* settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from aixgo.config.schema import RateLimitSpec
from aixgo.config.settings import Settings, read_environment
from aixgo.errors import ConfigError
from aixgo.server.limits import RateLimit


def test_nothing_set_means_the_defaults():
    settings = Settings.read({})
    assert settings.deployment_mode is None
    assert settings.control_plane == ()
    assert settings.listen == "127.0.0.1:0"
    assert (settings.log_level, settings.log_format) == ("INFO", "text")


def test_settings_are_read_by_their_prefix_and_empty_ones_do_not_count():
    settings = Settings.read({
        "AIXGO_DEPLOYMENT_MODE": "Distributed", "AIXGO_CONTROL_PLANE": "a:1, b:2,", "AIXGO_LOG_LEVEL": "debug",
        "AIXGO_MODEL_DIR": "/models", "AIXGO_LISTEN": "", "AIXGO_SERVICE_HOST": "from Kubernetes", "LISTEN": "x",
    })  # fmt: skip
    assert settings.deployment_mode == "distributed"
    assert settings.control_plane == ("a:1", "b:2")
    assert settings.log_level == "DEBUG"
    assert settings.model_dir == Path("/models")
    assert settings.listen == "127.0.0.1:0"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("AIXGO_DEPLOYMENT_MODE", "remote", "AIXGO_DEPLOYMENT_MODE: must be 'local' or 'distributed'"),
        ("AIXGO_CONTROL_PLANE", "nowhere", "AIXGO_CONTROL_PLANE: an address is written host:port"),
        ("AIXGO_LISTEN", "0.0.0.0:99999", "AIXGO_LISTEN: an address is written host:port"),
        ("AIXGO_LOG_LEVEL", "loud", "AIXGO_LOG_LEVEL: must be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(name: str, value: str, told: str):
    with pytest.raises(ConfigError) as caught:
        Settings.read({name: value})
    assert caught.value.message.startswith(told)


def test_the_environment_wins_over_a_dotenv_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / ".env").write_text("AIXGO_LISTEN=127.0.0.1:1\nAIXGO_LOG_LEVEL=ERROR\nEMPTY\n")
    monkeypatch.setenv("AIXGO_LISTEN", "127.0.0.1:2")
    settings = Settings.read(read_environment(tmp_path))
    assert (settings.listen, settings.log_level) == ("127.0.0.1:2", "ERROR")


def test_a_dotenv_file_that_is_no_text_is_named(tmp_path: Path):
    (tmp_path / ".env").write_bytes(b"A=\xff\xfe")
    with pytest.raises(ConfigError, match=r"\.env: cannot be read"):
        read_environment(tmp_path)


def test_a_rate_limit_of_the_environment_wins_over_the_files() -> None:
    spec = RateLimitSpec(per_second=5)
    assert Settings.read({"AIXGO_RATE_LIMIT": "2:9"}).rate(spec) == RateLimit(2.0, 9)
    assert Settings.read({}).rate(spec) == RateLimit(5.0, 5)
    assert Settings.read({}).rate() is None
    with pytest.raises(ConfigError, match="AIXGO_RATE_LIMIT: rate_limit is 'much'; write calls a second"):
        Settings.read({"AIXGO_RATE_LIMIT": "much"})
