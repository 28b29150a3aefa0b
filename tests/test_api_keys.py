"""API keys in the settings: names, secrets and hashes; the errors show no part of a key."""

import json
import traceback
from hashlib import sha256

import pytest

from gateway.settings import InvalidSettingsError, read_settings
from gateway.settings.api_keys import ApiKey, find_api_key

SECRET = "hunter2:hunter2+" + "x" * 8
HASH = sha256(SECRET.encode()).hexdigest()


@pytest.fixture(autouse=True)
def no_other_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GATEWAY_API_KEYS", "GATEWAY_OPERATOR_KEYS"):
        monkeypatch.delenv(name, raising=False)


def read_keys(monkeypatch: pytest.MonkeyPatch, *items: object) -> tuple[ApiKey, ...]:
    monkeypatch.setenv("GATEWAY_API_KEYS", json.dumps(items))
    return read_settings().api_keys


def error_of(monkeypatch: pytest.MonkeyPatch, *items: object) -> str:
    """Return the message of the error. Neither it nor the traceback has a part of a secret."""
    with pytest.raises(InvalidSettingsError) as caught:
        read_keys(monkeypatch, *items)
    assert "hunter" not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


@pytest.mark.parametrize("item", [f"alice:{SECRET}", f"alice:sha256:{HASH}", f"alice:sha256:{HASH.upper()}"])
def test_secret_or_hash(monkeypatch: pytest.MonkeyPatch, item: str) -> None:
    """A key is found by its secret, whether the setting has the secret or its hash. The hash is no secret that is accepted."""
    keys = read_keys(monkeypatch, f"bob:{'y' * 16}", item)

    assert find_api_key(SECRET, keys) == keys[1]
    assert keys[1].name == "alice"
    for wrong in ("", SECRET[:-1], SECRET + "x", SECRET.upper(), HASH, f"sha256:{HASH}", item, "é"):
        assert find_api_key(wrong, keys) is None


def test_several_secrets_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have several secrets, so that one can be replaced while the other one is in use."""
    keys = read_keys(monkeypatch, f"alice:{SECRET}", f"alice:{'y' * 16}")

    assert [find_api_key(secret, keys) for secret in (SECRET, "y" * 16)] == list(keys)


@pytest.mark.parametrize("item", [f"operator:{SECRET}", f"operator:sha256:{HASH}"])
def test_secret_of_a_client_and_an_operator(monkeypatch: pytest.MonkeyPatch, item: str) -> None:
    """A secret is either that of an operator or that of another client. The error names both variables."""
    monkeypatch.setenv("GATEWAY_OPERATOR_KEYS", json.dumps([item]))
    read_keys(monkeypatch, f"alice:{'y' * 16}")
    message = error_of(monkeypatch, f"alice:{'y' * 16}", f"alice:{SECRET}")

    assert message.startswith("GATEWAY_API_KEYS and GATEWAY_OPERATOR_KEYS have the same secret")
    assert HASH not in message


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ("hunter2hunter2hunter2", "should begin with a name for the key and a colon"),
        ("", "should begin with a name for the key and a colon"),
        (1, "should be a text"),
        (["hunter2"], "should be a text"),
        (None, "should be a text"),
        ({"hunter2": 1}, "should be a text"),
        (f":{SECRET}", "the name before the colon should be at most 64"),
        (f"-hunter2:{SECRET}", "the name before the colon should be at most 64"),
        (f"Hunter2:{SECRET}", "the name before the colon should be at most 64"),
        (f"hunter 2:{SECRET}", "the name before the colon should be at most 64"),
        (f"hunter2\n:{SECRET}", "the name before the colon should be at most 64"),
        (f"{'hunter2' * 10}:{SECRET}", "the name before the colon should be at most 64"),
        ("alice:", "the secret after the name should be visible ASCII characters, at least 16"),
        ("alice:hunter2-hunter2", "the secret after the name should be visible ASCII characters, at least 16"),
        ("alice:hunter2 hunter2 h", "the secret after the name should be visible ASCII characters, at least 16"),
        ("alice:hunter2hunter2é", "the secret after the name should be visible ASCII characters, at least 16"),
        ("alice:hunter2hunter2hunter2\n", "the secret after the name should be visible ASCII characters, at least 16"),
        ("alice:sha256:", "the hash after sha256: should be 64 hexadecimal digits"),
        ("alice:sha256:hunter2", "the hash after sha256: should be 64 hexadecimal digits"),
        (f"alice:sha256:{HASH}0", "the hash after sha256: should be 64 hexadecimal digits"),
        (f"alice:sha256:{HASH[:-1]}g", "the hash after sha256: should be 64 hexadecimal digits"),
        (f"alice:sha256:{HASH}  -", "the hash after sha256: should be 64 hexadecimal digits"),
    ],
)
def test_invalid_key(monkeypatch: pytest.MonkeyPatch, item: object, problem: str) -> None:
    """The error names the variable, the number of the item and the problem."""
    message = error_of(monkeypatch, f"bob:{'y' * 16}", item)

    assert message.startswith(f"GATEWAY_API_KEYS: item 2: {problem}")


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_shared_secret(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Two keys with one secret are rejected, even if one of them has the hash: their clients could not be distinguished."""
    message = error_of(monkeypatch, f"alice:{SECRET}", f"carol:{'y' * 16}", f"{name}:sha256:{HASH}")

    assert message.startswith("GATEWAY_API_KEYS: items 1 and 3 have the same secret")


@pytest.mark.parametrize("item", [f"alice:{SECRET}", f"alice:sha256:{HASH}"])
def test_keys_are_not_shown(monkeypatch: pytest.MonkeyPatch, item: str) -> None:
    """No text form of the settings has a secret or its hash."""
    read_keys(monkeypatch, item)
    settings = read_settings()

    shown = repr(settings) + str(settings) + settings.model_dump_json() + repr(settings.model_dump())
    assert "alice" in shown
    assert SECRET not in shown
    assert HASH not in shown
    assert repr(bytes.fromhex(HASH))[2:10] not in shown
