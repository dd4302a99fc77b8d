"""What the doctor says of Python and the installed packages."""

from __future__ import annotations

import pytest
from aixgo_services.doctor.findings import Level
from aixgo_services.doctor.installation import check_extras, check_generated, check_packages, check_python

REQUIREMENTS = [
    "grpcio!=1.78.*,<1.83,>=1.76",
    "protobuf<8,>=6.31.1",
    'tomli>=2; python_version < "3.11"',
    'openai<4,>=2; extra == "openai"',
    'openai<4,>=2; extra == "local"',
    'xllamacpp>=2026.1; extra == "local"',
]
GOOD = {"grpcio": "1.80.1", "protobuf": "6.33.6", "openai": "3.54.0", "xllamacpp": "2026.10"}


def levels(findings):
    return [finding.level for finding in findings]


@pytest.mark.parametrize(
    ("version", "level"), [((3, 10, 9), Level.PROBLEM), ((3, 11, 0), Level.OK), ((3, 14, 1), Level.OK)]
)
def test_python_before_3_11_is_a_problem(version, level):
    found = check_python(version)
    assert found.level is level
    assert ".".join(map(str, version)) in found.what


def test_packages_in_their_ranges_are_one_line():
    (found,) = check_packages(REQUIREMENTS, GOOD.get)
    assert found.level is Level.OK
    assert found.what == "2 in their ranges; grpcio 1.80.1, protobuf 6.33.6"


@pytest.mark.parametrize("version", ["1.85.1", "1.78.2"])
def test_a_package_outside_its_range_is_a_problem_with_the_line_that_heals_it(version):
    (found,) = check_packages(REQUIREMENTS, (GOOD | {"grpcio": version}).get)
    assert found.level is Level.PROBLEM
    assert found.what == f"grpcio is {version}, and aixgo needs !=1.78.*,<1.83,>=1.76"
    assert found.fix == "pip install 'grpcio!=1.78.*,<1.83,>=1.76'"


def test_a_pre_release_in_the_range_counts():
    (found,) = check_packages(REQUIREMENTS, (GOOD | {"grpcio": "1.80.0rc1"}).get)
    assert found.level is Level.OK


def test_a_missing_package_is_a_problem():
    (found,) = check_packages(REQUIREMENTS, {"grpcio": "1.80.1"}.get)
    assert (found.level, found.what) == (Level.PROBLEM, "protobuf is not installed")


def test_an_extra_that_nobody_needs_may_be_missing():
    (found,) = check_extras(REQUIREMENTS, ["local"], {"openai": "3.0"}.get, {})
    assert found.level is Level.OK
    assert found.what == "not installed (xllamacpp); pip install 'aixgo[local]'"


def test_an_extra_that_the_file_needs_must_be_there():
    needed = {"local": "the file uses local/smollm2-135m"}
    found = check_extras(REQUIREMENTS, ["local", "openai"], {"openai": "3.0"}.get, needed)
    assert levels(found) == [Level.PROBLEM, Level.OK]
    assert found[0].what == "not installed (xllamacpp), and the file uses local/smollm2-135m"
    assert found[0].fix == "pip install 'aixgo[local]'"


def test_an_extra_that_would_only_be_of_use_is_a_warning():
    wanted = ['genai-prices>=0.2.3; extra == "prices"']
    (found,) = check_extras(wanted, ["prices"], {}.get, {"prices": "agent a uses langgraph: what its models cost"})
    assert found.level is Level.WARNING
    assert found.what.endswith("and agent a uses langgraph: what its models cost")
    assert found.fix == "pip install 'aixgo[prices]'"


def test_an_extra_that_the_installed_version_does_not_know_is_told():
    (found,) = check_extras(REQUIREMENTS, [], GOOD.get, {"rag": "agent r is a retriever"})
    assert found.level is Level.WARNING
    assert found.fix == "pip install -U 'aixgo[rag]'"


def test_an_extra_outside_its_range_is_a_warning():
    (found,) = check_extras(REQUIREMENTS, ["openai"], {"openai": "9.0"}.get, {})
    assert found.level is Level.WARNING
    assert found.what == "openai is 9.0, and aixgo needs <4,>=2"


def test_generated_code_that_loads_is_fine():
    loaded = []
    assert check_generated(loaded.append).level is Level.OK
    assert "aixgo.v1.agent_pb2_grpc" in loaded


def test_generated_code_that_the_installed_protobuf_refuses_is_a_problem_in_its_words():
    def refuse(module):
        raise RuntimeError("Detected incompatible\n Protobuf Gencode/Runtime versions")

    found = check_generated(refuse)
    assert found.level is Level.PROBLEM
    assert "RuntimeError: Detected incompatible Protobuf Gencode/Runtime versions" in found.what
    assert "pip install" in found.fix
