"""What is said at the top of a rendered file: the image, and what must be there besides."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from aixgo_services.cli.failures import Exit
from aixgo_services.cli.main import execute

Output = pytest.CaptureFixture[str]
RAG = "agents: [{name: a, role: retriever, config: {documents: docs}}]"
LLM = "agents: [{name: a, role: llm, model: test/echo}]"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with documents."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("A")
    return tmp_path


def render(what: str, text: str, capsys: Output, *words: str) -> tuple[str, str]:
    """What goes to stdout and stderr."""
    Path("mesh.yaml").write_text(f"version: 2\n{text}\n")
    assert execute(["render", what, "mesh.yaml", *words]) == Exit.OK
    done = capsys.readouterr()
    return done.out, done.err


@pytest.mark.parametrize("what", ["compose", "kubernetes"])
def test_the_image_is_named_by_what_it_must_have_and_how_it_is_built_is_told(what: str, capsys: Output):
    text, warned = render(what, RAG, capsys)
    assert "EXTRAS=openai,rag -t aixgo:rag ." in text
    assert "image: aixgo:rag" in text
    assert warned == ""
    text, _ = render(what, LLM, capsys)
    assert "docker build -f deploy/docker/Dockerfile -t aixgo:latest ." in text
    assert "image: aixgo:latest" in text
    text, _ = render(what, RAG, capsys, "--image", "mine:2")
    assert "EXTRAS=openai,rag -t mine:2 ." in text


def test_the_extras_of_an_agent_that_has_its_own_image_are_its_own_business(capsys: Output):
    text, _ = render("compose", f"{RAG}\ndeployment: {{agents: {{a: {{image: mine:1}}}}}}", capsys)
    assert yaml.safe_load(text)["services"]["gateway"]["image"] == "aixgo:latest"


def test_the_model_server_has_an_image_of_its_own_and_agents_need_no_engine(capsys: Output):
    text, _ = render("compose", LLM.replace("test/echo", "local/smollm2-135m"), capsys)
    assert "EXTRAS=local --build-arg MODEL=1 -t aixgo-model:latest ." in text
    assert "image: aixgo:latest" in text


@pytest.mark.parametrize(
    ("text", "extras", "tag"),
    [
        (LLM.replace("test/echo", "anthropic/claude-haiku-4-5"), "anthropic,openai", "aixgo:anthropic"),
        (LLM.replace("test/echo", "[openai/gpt-4o, gemini/gemini-2.5-flash]"), "gemini,openai", "aixgo:gemini"),
        (
            f"{LLM}\nobservability: {{otlp: 'http://c:4317', langfuse: true}}",
            "langfuse,openai,otel",
            "aixgo:langfuse-otel",
        ),
        (
            LLM.replace("llm, model: test/echo", "'aixgo.adapters.langgraph:LangGraphAgent'"),
            "langgraph,openai,prices",
            "aixgo:langgraph-prices",
        ),
    ],
)
@pytest.mark.parametrize("what", ["compose", "kubernetes"])
def test_vendors_and_telemetry_are_in_the_image(what: str, text: str, extras: str, tag: str, capsys: Output):
    rendered, warned = render(what, text, capsys)
    assert f"EXTRAS={extras} -t {tag} ." in rendered
    assert f"image: {tag}" in rendered
    assert warned == ""


def test_the_keys_of_vendors_and_of_langfuse_are_listed_with_their_place(capsys: Output):
    text = LLM.replace("test/echo", "[anthropic/claude-haiku-4-5, xai/grok-4]") + "\nobservability: {langfuse: true}"
    keys = "ANTHROPIC_API_KEY, XAI_API_KEY, LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY"
    mounted = "; one that is mounted as a file: ANTHROPIC_API_KEY_FILE=PATH"
    assert f"# Keys go into .env beside this file: {keys}{mounted}\n" in render("compose", text, capsys)[0]
    assert f"# Keys go into the Secret aixgo-keys: {keys}{mounted}\n" in render("kubernetes", text, capsys)[0]
    assert "# Keys" not in render("compose", LLM, capsys)[0]


@pytest.mark.parametrize(
    ("file", "name"), [("config.yaml", "my-desk"), ("aixgo.yaml", "my-desk"), ("mesh.yaml", "my-desk"), ("x.yaml", "x")]
)
def test_a_fleet_is_called_as_its_folder_where_its_file_says_nothing(file: str, name: str, capsys: Output):
    Path("my-desk").mkdir()
    Path("my-desk", file).write_text(f"version: 2\n{LLM}\n")
    assert execute(["render", "compose", f"my-desk/{file}"]) == Exit.OK
    assert yaml.safe_load(capsys.readouterr().out)["name"] == name


def test_variables_of_the_folder_are_read(folder: Path, capsys: Output):
    Path("desk").mkdir()
    Path("desk", ".env").write_text("MODEL=test/upper\n")
    Path("desk", "mesh.yaml").write_text("version: 2\nagents: [{name: a, role: llm, model: '${MODEL}'}]\n")
    assert execute(["render", "compose", "desk/mesh.yaml"]) == Exit.OK


def test_sqlite_is_a_volume_of_one_machine_and_a_database_in_a_cluster(capsys: Output):
    text = f"{LLM}\nsessions: {{store: 'sqlite:///sessions.db'}}"
    compose, warned = render("compose", text, capsys)
    document = yaml.safe_load(compose)
    assert document["services"]["a"]["volumes"] == [{"type": "volume", "source": "kept", "target": "/etc/aixgo"}]
    assert document["volumes"] == {"kept": {}}
    assert warned == ""
    manifests, warned = render("kubernetes", text, capsys)
    assert "AIXGO_SESSION_STORE=postgresql://" in warned
    assert "image: aixgo:postgres" in manifests


def test_mailboxes_in_sqlite_are_a_volume_of_one_machine_and_nats_in_a_cluster(capsys: Output):
    text = (
        f"{LLM}\norchestrations: [{{name: b, pattern: parallel, agents: [a]}}]\nmailbox: {{url: 'sqlite:///mail.db'}}"
    )
    compose, warned = render("compose", text, capsys)
    services = yaml.safe_load(compose)["services"]
    kept = [{"type": "volume", "source": "kept", "target": "/etc/aixgo"}]
    assert {name: each["volumes"] for name, each in services.items() if "volumes" in each} == {"a": kept, "b": kept}
    assert warned == ""
    manifests, warned = render("kubernetes", text, capsys)
    assert "AIXGO_MAILBOX=nats://" in warned
    assert "image: aixgo:nats" in manifests


def test_a_gateway_is_told_where_mailboxes_are_but_no_password(capsys: Output):
    text = f"{LLM}\nmailbox: {{url: 'nats://mq:4333'}}"
    told = yaml.safe_load(render("compose", text, capsys)[0])["services"]["gateway"]["environment"]
    assert told["AIXGO_MAILBOX"] == "nats://mq:4333"
    compose, warned = render("compose", f"{LLM}\nmailbox: {{url: 'nats://u:${{PASSWORD:-hunter2}}@mq'}}", capsys)
    assert "AIXGO_MAILBOX" not in yaml.safe_load(compose)["services"]["gateway"]["environment"]
    assert "# Give the gateway AIXGO_MAILBOX, too" in compose
    assert warned == ""


def test_a_store_in_a_folder_is_a_volume_of_one_machine_and_a_server_in_a_cluster(capsys: Output):
    text = RAG.replace("docs}", "docs, store: vectors}")
    document = yaml.safe_load(render("compose", text, capsys)[0])
    targets = [volume["target"] for volume in document["services"]["a"]["volumes"]]
    assert targets == ["/etc/aixgo", "/etc/aixgo/docs"]
    assert "use a Qdrant server" in render("kubernetes", text, capsys)[1]


def test_what_is_no_small_text_needs_an_image_in_a_cluster_and_nothing_in_compose(folder: Path, capsys: Output):
    (folder / "docs" / "a.pdf").write_bytes(b"%PDF\xff")
    compose, warned = render("compose", RAG, capsys)
    (mounted,) = yaml.safe_load(compose)["services"]["a"]["volumes"]
    assert (mounted["source"], mounted["target"], mounted["read_only"]) == ("./docs", "/etc/aixgo/docs", True)
    assert warned == ""
    manifests, warned = render("kubernetes", RAG, capsys)
    assert "docs does not fit into a ConfigMap" in warned
    assert f"# {warned.removeprefix('warning: ')}" in manifests


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RAG.replace("docs", "nowhere"), "agent a names nowhere, which does not lie beside the file"),
        (RAG.replace("docs", "."), "agent a names ., which is not below the file's folder"),
        (RAG.replace("docs", "/srv/docs"), "agent a names /srv/docs, which is not below the file's folder"),
        (
            "tools: [{name: t, mcp: {command: [npx, x]}}]\n" + LLM.replace("llm", "react, mcp_servers: [t]"),
            "MCP server t is started by npx: the image of a must have it",
        ),
        (f"{LLM}\nsessions: {{store: 'sqlite:////var/s.db'}}", "sessions are kept in /var/s.db: mount a volume there"),
        (f"{LLM}\nmailbox: {{url: 'sqlite:////var/m.db'}}", "mailboxes are kept in /var/m.db: mount a volume there"),
        (RAG.replace("docs}", "docs, store: /var/v}"), "agent a keeps /var/v: mount a volume there"),
        ("agents: [{name: a, role: logger, config: {file: log.jsonl}}]", "agent a writes to log.jsonl"),
        (f"{LLM}\ndeployment: {{agents: {{a: {{replicas: 2}}}}}}", "agent a has 2 replicas, and each remembers"),
    ],
)
def test_what_will_be_missing_is_a_warning_and_a_comment(text: str, said: str, capsys: Output):
    out, err = render("compose", text, capsys)
    assert f"# {said}" in out
    assert f"warning: {said}" in err


@pytest.mark.parametrize("command", ["[python, server.py]", "[./server.py]"])
def test_a_servers_own_script_is_found_from_the_working_directory(command: str, folder: Path, capsys: Output):
    (folder / "server.py").write_text("")
    text = f"tools: [{{name: t, mcp: {{command: {command}}}}}]\n" + LLM.replace("llm", "react, mcp_servers: [t]")
    compose, warned = render("compose", text, capsys)
    service = yaml.safe_load(compose)["services"]["a"]
    assert (service["working_dir"], service["environment"]["PYTHONPATH"]) == ("/etc/aixgo", "/app")
    assert warned == ""
    manifests, _ = render("kubernetes", text, capsys)
    assert "workingDir: /etc/aixgo" in manifests
    assert f"defaultMode: {0o555}" in manifests  # a script may be a program
