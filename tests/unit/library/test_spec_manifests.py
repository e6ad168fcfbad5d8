from pathlib import Path

import pytest

from modelmora.spec import ModelDeployment, ModelRoute, manifests
from modelmora.spec.manifests import Document, load, load_text

MINILM = """\
apiVersion: modelmora.io/v1alpha1
kind: ModelDeployment
metadata: {name: minilm}
spec:
  model:
    task: txt2embed
    source: {uri: package://minilm/model}
"""


def read(text: str, **variables: str) -> list[Document]:
    return load_text(text, Path("models.yaml"), variables)


def only(text: str, **variables: str) -> ModelDeployment:
    (document,) = read(text, **variables)
    assert document.error is None, document.error
    assert document.deployment is not None
    return document.deployment


def refusal(text: str, **variables: str) -> str:
    (document,) = read(text, **variables)
    assert document.error is not None
    assert document.error.context.file == "models.yaml"
    assert document.error.context.remedy
    return str(document.error)


@pytest.mark.req("RM-1.2g")
def test_files_and_folders_give_their_documents_in_the_order_of_the_names(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    (folder / "deeper").mkdir(parents=True)
    (folder / "b.yml").write_text(MINILM.replace("minilm}", "b}"))
    (folder / "a.yaml").write_text(f"{MINILM.replace('minilm}', 'a1}')}---\n{MINILM.replace('minilm}', 'a2}')}")
    (folder / ".a.yaml").write_text(MINILM)
    (folder / "notes.txt").write_text("no YAML: {")
    (folder / "deeper" / "c.yaml").write_text(MINILM)
    single = tmp_path / "z.any"
    single.write_text(MINILM.replace("minilm}", "z}"))
    names = [document.resource.metadata.name for document in load([single, folder]) if document.resource]
    assert names == ["z", "a1", "a2", "b"]


def test_a_document_knows_where_it_stands() -> None:
    documents = read(f"# a comment\n---\n---\n{MINILM}---\n{MINILM}")
    assert [(document.line, document.file) for document in documents] == [
        (4, Path("models.yaml")),
        (12, Path("models.yaml")),
    ]


@pytest.mark.req("RM-1.2g", "REQ-REG-003")
def test_one_broken_document_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{MINILM}---\nkind: ModelDeployment\n---\n{MINILM}---\n{{")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "c.yaml").write_text(MINILM)
    outcome = [(document.file.name, document.error is None) for document in load([tmp_path])]
    assert outcome == [
        ("a.yaml", True),
        ("a.yaml", False),
        ("a.yaml", True),
        ("a.yaml", False),
        ("b.yaml", False),
        ("c.yaml", True),
    ]


@pytest.mark.req("REQ-REG-003")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\nb: 2\n", "line 2, column 2"),
        ("a: b: c\n", "line 1, column 5"),
        ("a:\n\tb: 1\n", "line 2, column 1"),
        ("a: \x07\n", "line 1: the character U+0007 is not allowed"),
        ("a: *nowhere\n", "undefined alias"),
        ("kind: A\nkind: B\n", "line 2: the key 'kind' is there twice"),
        ("on: 1\n", "line 1: the key on is not a text"),
        ("? [a]\n: 1\n", "line 1: the key a list or mapping is not a text"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1: could not determine a constructor"),
        ("a: !!int xyz\n", "invalid literal"),
        ("a: &a [*a]\n", "line 1: an alias contains itself"),
        ("[" * 5000, "nested too deeply"),
        ("just a text\n", "a manifest is a mapping"),
        ("[1, 2]\n", "a manifest is a mapping"),
        ("metadata: {name: x}\n", "kind is missing"),
        ("apiVersion: modelmora.io/v1alpha1\nkind: ModelDeploymnt\n", "the kind 'ModelDeploymnt' is unknown"),
        (MINILM.replace("v1alpha1", "v2"), "apiVersion: 'modelmora.io/v2' is not one of 'modelmora.io/v1alpha1'"),
        (MINILM.replace("txt2embed", "x\n    version: 1.0"), "spec.model.version: must be a text, not the number 1.0"),
        (MINILM + "  gpu: {mode: Off}\n", "spec.gpu.mode: the boolean false is not one of"),
        (MINILM + "  suspend: 2026-01-02\n", "spec.suspend: must be a valid boolean, not '2026-01-02'"),
        (MINILM + f"  scaling: {{minReplicas: {'9' * 5000}}}\n", "Exceeds the limit"),
        (MINILM + "  scaling: {minReplicas: .nan}\n", "spec.scaling.minReplicas"),
        (MINILM + '  queue: {defaultPriority: "\\ud800"}\n', "models.yaml"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else value,
)
def test_what_cannot_be_used_says_what_and_where(text: str, said: str) -> None:
    message = refusal(text)
    assert said in message
    assert "models.yaml" in message


def test_aliases_cannot_grow_a_document_out_of_bounds() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    assert "more than 100000 values" in refusal(bomb)


def test_aliases_and_merges_within_bounds_work() -> None:
    text = MINILM + "  queue: &q {maxLength: 5}\n  batching: {<<: {maxSize: 4}}\n"
    assert only(text).spec.batching.max_size == 4


@pytest.mark.req("RM-1.2g")
def test_documents_of_other_kinds_are_skipped_with_a_warning() -> None:
    service, foreign, ours = read(
        f"apiVersion: v1\nkind: Service\n---\napiVersion: other.io/v1\nkind: ModelDeployment\n---\n{MINILM}"
    )
    assert "Service of the core API is skipped" in service.warning
    assert "ModelDeployment of other.io is skipped" in foreign.warning
    assert (service.error, service.resource, ours.warning) == (None, None, "")


def test_a_list_as_kubectl_writes_it_is_read_item_by_item() -> None:
    indented = MINILM.replace("\n", "\n  ").rstrip()
    good, broken = read(f"apiVersion: v1\nkind: List\nitems:\n- {indented}\n- kind: ModelRoute\n")
    assert good.deployment is not None
    assert broken.error is not None


def test_a_route_is_read() -> None:
    (document,) = read(
        "apiVersion: modelmora.io/v1alpha1\nkind: ModelRoute\nmetadata: {name: r}\n"
        "spec: {modelId: org/minilm, backends: [{name: minilm}]}\n"
    )
    assert isinstance(document.route, ModelRoute)
    assert document.deployment is None


@pytest.mark.req("RM-1.2h")
def test_variables_are_filled_in() -> None:
    text = MINILM.replace("package://minilm/model", "file://${ROOT}/${NAME:-minilm}")
    assert only(text, ROOT="/models").spec.model.source.uri == "file:///models/minilm"
    assert only(text, ROOT="/m", NAME="other").spec.model.source.uri == "file:///m/other"
    assert only(text, ROOT="/m", NAME="").spec.model.source.uri == "file:///m/minilm"


@pytest.mark.req("RM-1.2h")
def test_a_bare_variable_becomes_the_type_that_its_value_has() -> None:
    text = MINILM + "  scaling: {maxReplicas: ${MAX:-3}}\n  suspend: ${OFF}\n"
    deployment = only(text, OFF="true")
    assert deployment.spec.scaling.max_replicas == 3
    assert deployment.spec.suspend is True


@pytest.mark.req("RM-1.2h")
def test_a_quoted_variable_stays_a_text() -> None:
    text = MINILM.replace("txt2embed", 'txt2embed\n    version: "${VERSION}"')
    assert only(text, VERSION="1.0.0").version == "1.0.0"
    text = MINILM + '  scaling: {maxReplicas: "${MAX}"}\n'
    assert "spec.scaling.maxReplicas" in refusal(text, MAX="3")


@pytest.mark.req("RM-1.2h")
def test_a_missing_variable_is_named_with_its_line() -> None:
    (document,) = read(MINILM.replace("minilm/model", "${PACKAGE}/model"))
    assert "line 7: the variable PACKAGE is not set" in str(document.error)
    assert document.error is not None
    assert "${PACKAGE:-default}" in document.error.context.remedy


@pytest.mark.req("RM-1.2h")
def test_the_value_of_a_variable_cannot_change_the_structure() -> None:
    text = MINILM + "  runtime: {env: [{name: A, value: ${A}}]}\n"
    value = "x, evil: 1}\nspec: {}"
    assert only(text, A=value).spec.runtime.env[0].value == value


@pytest.mark.req("RM-1.2h")
def test_comments_programs_and_doubled_dollars_keep_their_text() -> None:
    text = (
        "# ${COMMENT}\n" + MINILM + "  runtime:\n    files:\n    - path: a.py\n      content: |\n        f'${x} {y}'\n"
        "    args: ['$${HOME}', '$HOME', '${1}']\n"
    )
    runtime = only(text).spec.runtime
    assert runtime.files[0].content == "f'${x} {y}'\n"
    assert runtime.args == ("${HOME}", "$HOME", "${1}")


@pytest.mark.req("RM-1.2g")
@pytest.mark.parametrize("path", ["missing.yaml", "missing/"])
def test_a_path_where_nothing_is_gives_an_error(tmp_path: Path, path: str) -> None:
    (document,) = load([tmp_path / path])
    assert "No such file or directory" in str(document.error)


def test_an_absurdly_large_file_is_not_read(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    (document,) = load([large])
    assert "1099511627776 bytes" in str(document.error)


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + MINILM.encode())
    (document,) = load([tmp_path])
    assert document.error is None


@pytest.mark.req("RM-1.2g")
def test_the_examples_are_good() -> None:
    examples = Path(__file__).parents[3] / "examples"
    documents = manifests.load([examples], {})
    assert [str(document.error) for document in documents if document.error] == []
    assert any(document.file.name == "minilm.yaml" for document in documents)


@pytest.mark.parametrize("text", ["", " \n\n"], ids=["empty", "blank"])
def test_a_file_without_any_text_is_not_the_wish_to_delete_what_was_in_it(text: str) -> None:
    [document] = load_text(text, Path("a.yaml"), {})
    assert document.error is not None
    assert "is empty" in document.error.message


def test_a_file_of_comments_holds_nothing() -> None:
    assert load_text("# kind: ModelDeployment\n", Path("a.yaml"), {}) == []
