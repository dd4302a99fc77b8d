"""The commands as a person or a script uses them: output, exit codes, messages instead of tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from aixgo import errors
from aixgo.errors import AixgoError
from aixgo_services.cli import main as entry
from aixgo_services.cli.failures import Exit, exit_code
from aixgo_services.cli.main import execute

MESH = """\
version: 2
agents:
  - {name: upper, role: llm, model: test/upper}
  - {name: echo, role: llm, model: test/echo}
  - {name: never, role: llm, model: test/slow}
  - {name: fails, role: llm, model: "test/fail:RateLimited"}
orchestration:
  name: chain
  pattern: sequential
  agents: [upper, echo]
"""

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """mesh.yaml in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mesh.yaml").write_text(MESH)
    return tmp_path / "mesh.yaml"


def test_run_calls_the_orchestration_and_prints_its_reply(capsys: Output):
    assert execute(["run", "mesh.yaml", "-i", "hello there"]) == Exit.OK
    out, err = capsys.readouterr()
    assert out == "HELLO THERE\n"
    assert "2 LLM calls, 8 tokens" in err


def test_run_calls_the_target(capsys: Output):
    assert execute(["run", "mesh.yaml", "-i", "hello", "--target", "echo"]) == Exit.OK
    assert capsys.readouterr().out == "hello\n"


def test_run_prints_json_for_scripts(capsys: Output):
    assert execute(["run", "mesh.yaml", "-i", "hello", "--json"]) == Exit.OK
    out, err = capsys.readouterr()
    reply = json.loads(out)
    assert reply["payload"] == "HELLO"
    assert reply["metadata"]["pattern"] == "sequential"
    assert reply["usage"]["total_tokens"] == 4
    assert err == ""


def test_run_streams_for_people(capsys: Output):
    assert execute(["run", "mesh.yaml", "-i", "hello you", "--stream"]) == Exit.OK
    out, err = capsys.readouterr()
    assert "HELLO YOU\n" in out
    assert [line for line in err.splitlines() if line.startswith("upper")] == ["upper started", "upper: upper finished"]


def test_run_streams_one_event_a_line_for_scripts(capsys: Output):
    assert execute(["run", "mesh.yaml", "-i", "hello you", "--stream", "--json"]) == Exit.OK
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "MemberStarted"
    assert kinds.count("Result") == 1
    assert kinds[-1] == "Result"
    assert events[-1]["message"]["payload"] == "HELLO YOU"
    assert (
        "".join(event["text"] for event in events if event["event"] == "Delta" and event["path"][-1] == "upper")
        == "HELLO YOU"
    )


def test_a_deadline_has_its_own_exit_code(capsys: Output):
    assert execute(["run", "mesh.yaml", "-i", "x", "--target", "never", "--timeout", "50ms"]) == Exit.DEADLINE
    assert capsys.readouterr().err.startswith("aixgo: ")


def test_a_failed_call_is_one_message_with_the_agents_path(capsys: Output):
    assert execute(["run", "mesh.yaml", "-i", "x", "--target", "fails"]) == Exit.FAILED
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("aixgo: ")
    assert "(at fails)" in err
    assert "Traceback" not in err


def test_a_failed_call_is_one_json_object_for_scripts(capsys: Output):
    assert execute(["run", "mesh.yaml", "-i", "x", "--target", "fails", "--json"]) == Exit.FAILED
    out, err = capsys.readouterr()
    assert out == ""
    told = json.loads(err)
    assert (told["error"], told["code"], told["agent_path"]) == ("RateLimited", "RESOURCE_EXHAUSTED", ["fails"])


@pytest.fixture
def poor(mesh: Path) -> None:
    """mesh.yaml with a budget that its second member cannot work with, and a price."""
    text = mesh.read_text().replace("  pattern: sequential\n", "  pattern: sequential\n  limits: {max_tokens: 1000}\n")
    mesh.write_text(f"{text}\npricing: {{test/upper: {{prompt: 0.5, completion: 1}}}}\n")


@pytest.mark.usefixtures("poor")
def test_a_spent_budget_says_who_spent_what(capsys: Output):
    said = "word " * 400
    assert execute(["run", "mesh.yaml", "-i", said]) == Exit.FAILED
    first, total, *shares = capsys.readouterr().err.splitlines()
    assert "raise max_tokens" in first
    assert total.startswith("1 LLM calls, ")
    assert shares
    assert execute(["run", "mesh.yaml", "-i", said, "--json"]) == Exit.FAILED
    told = json.loads(capsys.readouterr().err)
    assert told["error"] == "BudgetExceeded"
    assert told["usage"]["llm_calls"] == 1
    spent = told["fields"]["spent"]
    assert shares == [f"  {name}: {share['tokens']} tokens, ${share['cost_usd']}" for name, share in spent.items()]


def test_an_unknown_target_is_told_with_those_there_are(capsys: Output):
    assert execute(["run", "mesh.yaml", "-i", "x", "--target", "nobody"]) == Exit.UNAVAILABLE
    err = capsys.readouterr().err
    assert "'nobody'" in err
    assert "chain, echo, fails, never, upper" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "none.yaml", "-i", "x"], "none.yaml: there is no such file"),
        (["run", "mesh.yaml"], "Missing option '-i' / '--input'"),
        (["run", "mesh.yaml", "-i", "x", "--timeout", "soon"], "a duration is needed"),
        (["run", "mesh.yaml", "-i", "x", "--strem"], "No such option '--strem'"),
        (["runn"], "No such command 'runn'"),
        (["serve", "mesh.yaml"], "Missing option '--agent'"),
        (["serve", "mesh.yaml", "--agent", "nobody"], "mesh.yaml:1: no agent or orchestration is named 'nobody'"),
        (["serve", "mesh.yaml", "--agent", "echo", "--listen", "here"], "an address is written host:port"),
        (
            ["call", "a", "x", "--address", "h:1", "--control-plane", "h:2"],
            "give one of --address, --gateway and --control-plane",
        ),
        (["model", "serve", "--dir", "."], "aixgo model pull"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_message(arguments: list[str], told: str, capsys: Output):
    assert execute(arguments) == Exit.USAGE
    out, err = capsys.readouterr()
    assert told in err
    assert out == ""
    assert execute([*arguments, "--json"]) == Exit.USAGE
    assert told in json.loads(capsys.readouterr().err)["message"]


def test_a_setting_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Output):
    monkeypatch.setenv("AIXGO_LOG_FORMAT", "xml")
    assert execute(["run", "mesh.yaml", "-i", "x"]) == Exit.USAGE
    assert "AIXGO_LOG_FORMAT: must be 'text' or 'json'" in capsys.readouterr().err


def test_stdin_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: Output, tmp_path: Path):
    (tmp_path / "bytes").write_bytes(b"\xff")
    with (tmp_path / "bytes").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert execute(["run", "mesh.yaml", "-i", "-"]) == Exit.USAGE
    assert "stdin is not UTF-8 text" in capsys.readouterr().err


def test_stdin_is_read(monkeypatch: pytest.MonkeyPatch, capsys: Output, tmp_path: Path):
    (tmp_path / "said").write_text("from a pipe\n")
    with (tmp_path / "said").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert execute(["run", "mesh.yaml", "-i", "-"]) == Exit.OK
    assert capsys.readouterr().out == "FROM A PIPE\n"


def test_config_check_says_what_is_in_a_good_file(capsys: Output):
    assert execute(["config", "check", "mesh.yaml"]) == Exit.OK
    assert capsys.readouterr().out == "mesh.yaml: ok; agents: upper, echo, never, fails; orchestrations: chain\n"
    assert execute(["config", "check", "mesh.yaml", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["orchestrations"] == ["chain"]


@pytest.mark.parametrize(
    ("good", "bad", "told"),
    [
        ("role: llm", "rol: llm", "mesh.yaml:3: unknown key 'agents[0].rol'; did you mean 'role'?"),
        ("name: upper", "name: echo", "mesh.yaml:4: the name 'echo' is taken (line 3)"),
        ("name: upper", "name: [upper]", "mesh.yaml:3: agents[0].name: must be text, and is a list"),
        ("role: llm", "role: no_such_module:Role", "cannot be imported: No module named 'no_such_module'"),
        ("agents: [upper, echo]", "agents: [upper, chain]", "in a circle: chain > chain"),
    ],
)
def test_config_check_tells_what_is_wrong_with_a_bad_one(mesh: Path, good: str, bad: str, told: str, capsys: Output):
    mesh.write_text(MESH.replace(good, bad, 1))
    assert execute(["config", "check", "mesh.yaml"]) == Exit.USAGE
    out, err = capsys.readouterr()
    assert told in err
    assert "Traceback" not in err
    assert out == ""


def test_config_schema_prints_json(capsys: Output):
    assert execute(["config", "schema"]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["title"] == "aixgo, version 2"


def test_reload_without_watchfiles_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: Output):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert execute(["run", "mesh.yaml", "-i", "x", "--reload"]) == Exit.USAGE
    assert "pip install 'aixgo[reload]'" in capsys.readouterr().err


def test_the_weights_that_are_there_are_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
):
    async def there(directory: Path, _progress: object) -> Path:
        return directory / "weights.gguf"

    monkeypatch.setattr("aixgo.llm.weights.pull_weights", there)
    assert execute(["model", "pull", "--dir", str(tmp_path), "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == {"path": str(tmp_path / "weights.gguf")}


def test_help_and_version_name_everything(capsys: Output):
    assert execute(["--help"]) == Exit.OK
    told = capsys.readouterr().out
    for name in ("run", "up", "serve", "controlplane", "call", "agents", "model", "config", "Exit codes"):
        assert name in told
    assert execute(["--version"]) == Exit.OK
    assert capsys.readouterr().out.startswith("aixgo 2.")


@pytest.mark.parametrize("command", ["run", "up", "serve", "controlplane", "call", "agents", "model", "config"])
def test_every_command_has_help(command: str, capsys: Output):
    assert execute([command, "--help"]) == Exit.OK
    assert capsys.readouterr().out.startswith(f"Usage: aixgo {command}")


def break_run(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fails(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(entry.aixgo, "main", fails)


def test_a_defect_is_one_line_and_how_to_see_more(monkeypatch: pytest.MonkeyPatch, capsys: Output):
    break_run(monkeypatch, ZeroDivisionError("division by zero"))
    assert execute(["run"]) == Exit.FAILED
    err = capsys.readouterr().err
    assert err == "aixgo: ZeroDivisionError: division by zero (this should not happen; `aixgo -v ...` shows where)\n"
    assert execute(["-v", "run"]) == Exit.FAILED
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_has_its_own_exit_code(monkeypatch: pytest.MonkeyPatch):
    break_run(monkeypatch, KeyboardInterrupt())
    assert execute(["run"]) == Exit.INTERRUPTED


CODES: dict[type[AixgoError], Exit] = {
    errors.ConfigError: Exit.USAGE,
    errors.WrongState: Exit.USAGE,
    errors.AgentNotFound: Exit.UNAVAILABLE,
    errors.AgentUnavailable: Exit.UNAVAILABLE,
    errors.RegistryUnavailable: Exit.UNAVAILABLE,
    errors.DeadlineExceeded: Exit.DEADLINE,
    errors.ProviderTimeout: Exit.DEADLINE,
    errors.AgentFailed: Exit.FAILED,
    errors.MessageTooLarge: Exit.FAILED,
}


@pytest.mark.parametrize(("kind", "code"), CODES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_errors_have_documented_exit_codes(kind: type[AixgoError], code: Exit):
    assert exit_code(kind("x")) == code


def test_what_an_agent_raised_is_never_wrong_usage():
    error = errors.InvalidInput("x")
    error.agent_path = ("a",)
    assert exit_code(error) == Exit.FAILED


def modules_after(code: str) -> set[str]:
    """What a new interpreter has imported after `code`."""
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ}
    )
    return set(ended.stdout.split())


@pytest.mark.parametrize("heavy", ["grpc", "pydantic", "rich", "yaml", "asyncio", "openai"])
def test_help_imports_nothing_heavy(heavy: str, help_modules: Callable[[], set[str]]):
    assert heavy not in help_modules()


@pytest.fixture(scope="module")
def help_modules() -> Callable[[], set[str]]:
    found = modules_after("from aixgo_services.cli.main import execute\nexecute(['--help'])")
    assert "aixgo_services.cli.main" in found
    return lambda: found
