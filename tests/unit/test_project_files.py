"""Project files: what is read, and what is said when it cannot be."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prefect_video import InvalidInput, load_project
from prefect_video.project_files import InvalidProject, project_schema

FILM = """\
project: coffee-ad
defaults: {model: sora-2, duration: 8, aspect_ratio: 16:9, resolution: 720p}
shots:
  - id: opening
    prompt: Dawn over a coffee plantation, slow aerial push-in
  - id: pour
    prompt: Macro of espresso pouring into a glass, backlit
    duration: 5
"""


def refused(tmp_path: Path, text: str | bytes, name: str = "film.yaml") -> str:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InvalidInput) as caught:
        load_project(path)
    return str(caught.value).replace(str(tmp_path) + "/", "")


def test_the_example_of_the_readme_is_read(tmp_path: Path) -> None:
    (tmp_path / "film.yaml").write_text(FILM)
    project = load_project(tmp_path / "film.yaml")
    assert project.name == "coffee-ad"
    assert [(s.id, s.duration, s.aspect_ratio) for s in project.shots] == [("opening", 8, "16:9"), ("pour", 5, "16:9")]


def test_json_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "film.yaml").write_text(FILM)
    data = {**yaml.safe_load(FILM.replace("16:9", '"16:9"'))}
    (tmp_path / "film.json").write_text(json.dumps(data, indent="\t"))
    assert load_project(tmp_path / "film.json") == load_project(tmp_path / "film.yaml")


def test_scalars_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    # YAML 1.1 reads 16:9 as 969, `no` as false and 2026-01-01 as a date.
    (tmp_path / "film.yaml").write_text("project: no\nshots: [{id: 2026-01-01, prompt: yes, aspect_ratio: 9:16}]\n")
    project = load_project(tmp_path / "film.yaml")
    assert (project.name, project.shots[0].id, project.shots[0].prompt) == ("no", "2026-01-01", "yes")


@pytest.mark.parametrize(
    ("shot", "message"),
    [
        ("{id: a}", "film.yaml:3: shot 'a': prompt: this field is missing and required"),
        ("{id: a, prompt: x, duration: 0}", "shot 'a': duration: at least 1, not 0"),
        ("{id: a, prompt: x, duration: 75}", "shot 'a': duration: at most 60, not 75"),
        ("{id: a, prompt: x, aspect_ratio: wide}", "shot 'a': aspect_ratio: width and height, such as 16:9"),
        ("{id: a, prompt: x, resolution: 600p}", "shot 'a': resolution: one of '360p', '480p'"),
        ("{id: a, prompt: x, audio: loud}", "shot 'a': audio: true or false, not 'loud'"),
        ("{id: a, prompt: x, options: [1]}", "shot 'a': options: a mapping of names to values, not a list"),
        ("{id: a, prompt: x, duration: 10s}", "shot 'a': duration: a whole number, not '10s'"),
        ("{id: a, prompt: x, lenght: 3}", "shot 'a': lenght: there is no such field"),
        ("{id: ../a, prompt: x}", "shot '../a': id: '../a' is not a name"),
        ("{id: a, prompt: ''}", "shot 'a': prompt: this text is empty"),
        ("{id: a, prompt: x, depends_on: [a]}", "shot 'a': depends_on goes in a circle"),
        ("{prompt: x}", "shot number 1: id: this field is missing"),
        ("7", "shot number 1: a mapping of fields to values, not 7"),
    ],
)
def test_a_bad_shot_is_named_with_its_field(tmp_path: Path, shot: str, message: str) -> None:
    assert message in refused(tmp_path, f"project: ad\nshots:\n  - {shot}\n")


def test_each_problem_has_a_line_of_its_own_with_the_line_in_the_file(tmp_path: Path) -> None:
    lines = refused(
        tmp_path, FILM.replace("duration: 5", "duration: 500").replace("id: opening", "id: o/p")
    ).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["film.yaml:4", "film.yaml:8"]


def test_ids_used_twice(tmp_path: Path) -> None:
    assert "film.yaml:6: shot 'pour': this id is used twice" in refused(tmp_path, FILM.replace("opening", "pour"))


def test_what_is_wrong_between_shots_is_reported_with_its_line(tmp_path: Path) -> None:
    message = refused(tmp_path, FILM + "    depends_on: [pour]\n")
    assert message == "film.yaml:9: shot 'pour': depends_on goes in a circle: pour → pour"
    message = refused(tmp_path, FILM + "    depends_on: [none]\n")
    assert message == "film.yaml:9: shot 'pour': depends_on names 'none', which is not a shot"


def test_control_characters_are_no_text(tmp_path: Path) -> None:
    shot = {"id": "a", "prompt": "two\nlines\tof text"}
    (tmp_path / "film.json").write_text(json.dumps({"project": "ad", "shots": [shot]}))
    assert load_project(tmp_path / "film.json").shots[0].prompt == shot["prompt"]
    for field in ("prompt", "negative_prompt"):
        bad = json.dumps({"project": "ad", "shots": [{**shot, field: "no\0text"}]}, indent=1)
        message = refused(tmp_path, bad, name="film.json")
        assert f"shot 'a': {field}: character 3 is the control character U+0000" in message
        assert not message.startswith("film.json:1:")


def test_an_error_tells_the_project_that_the_file_names(tmp_path: Path) -> None:
    (tmp_path / "film.yaml").write_text("project: ad\nshots: []\n")
    with pytest.raises(InvalidProject) as caught:
        load_project(tmp_path / "film.yaml")
    assert caught.value.project == "ad"


def test_a_megabyte_of_prompt_is_refused_and_not_printed(tmp_path: Path) -> None:
    message = refused(tmp_path, FILM.replace("Dawn", "Dawn" * 250_000))
    assert "at most 32,000 characters; it has 1,0" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("project: [", "film.yaml:1: not valid YAML"),
        ("\tproject: a", "not valid YAML"),
        ("", "not nothing"),
        ("- a\n- b", "not a list"),
        ("project: a\nproject: b\nshots: []", "film.yaml:2: 'project' is given twice"),
        ("project: &a x\nshots: *a", "aliases are not taken"),
        (b"project: \xff\xfe", "not UTF-8"),
        ("project: !!python/object:os.system x", "not valid YAML"),
        ("? [a, b]\n: x\n", "film.yaml:1: the name of a field is one word"),
        ("[" * 3000, "film.yaml: its brackets are nested too deeply"),
        ("project: 5\nshots: {}\ntitle: x", "film.yaml:1: project: text in quotes, not 5"),
        ("project: ad\nshots: {}", "film.yaml:2: shots: a list, not a mapping"),
        ("project: ad\nshots: []\n", "a project needs at least one"),
        ("shots: [{id: a, prompt: x}]", "project: this field is missing"),
    ],
)
def test_files_that_are_no_project(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert message in refused(tmp_path, text)


def test_json_trouble_is_reported_as_json(tmp_path: Path) -> None:
    assert "not valid JSON" in refused(tmp_path, '{"project": "a",}', name="film.json")
    assert "nested too deeply" in refused(tmp_path, "[" * 100_000, name="film.json")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(InvalidInput, match="cannot read the file"):
            load_project(path)


def test_images_are_found_from_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "film.yaml").write_text(
        "project: film\nshots:\n  - {id: a, prompt: a, first_frame: stills/a.png, last_frame: /b.png,"
        " references: [c.png, 'https://cdn.example/d.png']}\n  - {id: b, prompt: b}\n"
    )
    monkeypatch.chdir("/")
    first, second = load_project(tmp_path / "film.yaml").shots
    assert first.images == {
        "first_frame": (f"{tmp_path}/stills/a.png",),
        "last_frame": ("/b.png",),
        "references": (f"{tmp_path}/c.png", "https://cdn.example/d.png"),
    }
    assert second.images == {}


def test_the_schema_takes_what_we_take(tmp_path: Path) -> None:
    schema = project_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = yaml.safe_load(FILM.replace("16:9", '"16:9"'))
    validator.validate(good)
    further = {"first_frame": "a.png", "audio": False, "options": {"a": [None]}, "resolution": "4k", "duration": 60}
    validator.validate({**good, "defaults": {**further, "aspect_ratio": "21:9"}})
    for bad in ({**good, "defaults": {"aspect_ratio": "wide"}}, {**good, "defaults": {"resolution": "600p"}}):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(bad)
    for bad in ({**good, "shots": [{"id": "a"}]}, {**good, "nope": 1}, {**good, "defaults": {"duration": 75}}):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(bad)


@given(st.text(max_size=300))
def test_whatever_a_file_holds_the_answer_is_a_project_or_a_message(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.yaml"
        path.write_text(text, encoding="utf-8", errors="surrogatepass" if text.isascii() else "replace")
        with pytest.raises(InvalidInput):
            load_project(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("prompt: We are #1 in town", "film.yaml:3: prompt: YAML leaves out '#1 in town', as a comment: put the whole"),
        ("prompt: We are\n      #1 in town", "film.yaml:4: prompt: YAML leaves out '#1 in town'"),
        ("prompt: a dog\n    negative_prompt: logo #5", "film.yaml:4: negative_prompt: YAML leaves out '#5'"),
        ("prompt: &dog a dog", "film.yaml:3: not valid YAML: `&dog` would be left out, as an anchor ("),
        ("prompt: !wow a dog", "film.yaml:3: not valid YAML: `!wow` would be left out, as a tag: put the whole text"),
        ("prompt: *dog barks", "film.yaml:3: not valid YAML: `*dog` would be an alias"),
    ],
)
def test_words_that_yaml_would_leave_out_of_a_prompt_are_refused(tmp_path: Path, lines: str, message: str) -> None:
    assert message in refused(tmp_path, f"project: film\nshots:\n  - {lines}\n    id: a\n")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("prompt_prefix: We are #1", "film.yaml:2: prompt_prefix: YAML leaves out '#1'"),
        ("variables:\n  who: We are #1", "film.yaml:3: who: YAML leaves out '#1'"),
        ("variables: {who: We are #1\n  }", "film.yaml:2: who: YAML leaves out '#1'"),
        ("defaults:\n  matrix:\n    who:\n    - We are #1", "film.yaml:5: an entry of the list: YAML leaves out '#1'"),
        ("defaults:\n  matrix:\n    who:\n    - We are\n      #1", "film.yaml:6: an entry of the list: YAML leaves"),
        ("defaults:\n  matrix:\n    who: [we are, We are #1\n    ]", "film.yaml:4: an entry of the list: YAML leaves"),
    ],
)
def test_words_that_yaml_would_leave_out_of_what_is_put_into_prompts_are_refused(
    tmp_path: Path, lines: str, message: str
) -> None:
    assert message in refused(tmp_path, f"project: film\n{lines}\nshots:\n  - {{id: a, prompt: '{{who}} sells'}}\n")


def test_the_matrix_of_a_shot_is_read_as_carefully(tmp_path: Path) -> None:
    shot = "  - id: a\n    prompt: '{who} sells'\n    matrix:\n      who:\n"
    text = f"project: film\nshots:\n{shot}"
    message = "film.yaml:7: an entry of the list: YAML leaves out '#1 in town'"
    assert message in refused(tmp_path, f"{text}        - We are #1 in town\n")
    # A comment that stands where the next entry begins is about that one.
    (tmp_path / "film.yaml").write_text(
        f"{text}        - We # first\n".replace("We #", "'We' #") + "        # next\n        - You\n"
    )
    assert [shot.prompt for shot in load_project(tmp_path / "film.yaml").shots] == ["We sells", "You sells"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("prompt: a cat\n   \n        # five dogs", "film.yaml:5: prompt: YAML leaves out '# five dogs'"),
        ("prompt: a cat\u2028        # five dogs", "film.yaml:4: prompt: YAML leaves out '# five dogs'"),
        ("prompt: a cat\x85        # five dogs", "film.yaml:4: prompt: YAML leaves out '# five dogs'"),
        ("prompt: |\n          a cat\n        #2 dogs", "film.yaml:5: prompt: YAML leaves out '#2 dogs'"),
        ("prompt: x\n    options: {style: neon #7 sign\n    }", "film.yaml:4: style: YAML leaves out '#7 sign'"),
        ("prompt: x\n    options:\n      a:\n        b: [c #7\n        ]", "film.yaml:6: an entry of the list: YAML"),
        ("prompt: x\n    duration: 010", "film.yaml:4: shot 'a': duration: a whole number, not '010'"),
        (
            "prompt: '{n}'\n    matrix: {n: [1, 4.50]}",
            "film.yaml:4: n: 4.50 would be 4.5 in a prompt: put it in quotes",
        ),
        ("prompt: '{n}'\n    matrix: {n: [+5]}", "film.yaml:4: n: +5 would be 5 in a prompt: put it in quotes"),
    ],
)
def test_what_yaml_would_change_of_what_is_paid_for_is_refused(tmp_path: Path, lines: str, message: str) -> None:
    assert message in refused(tmp_path, f"project: film\nshots:\n  - {lines}\n    id: a\n")


def test_numbers_are_put_into_prompts_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "film.yaml").write_text(
        "project: film\nvariables: {agent: 007, price: '4.50', share: 0.5, on: true}\nshots:\n  - id: a\n"
        "    prompt: '{agent} {price} {share} {on} {n}'\n    matrix:\n      n: [001, 10]\n      duration:\n"
        "      - 4  # short\n      - 8  # long\n"
    )
    shots = load_project(tmp_path / "film.yaml").shots
    assert [(shot.prompt, shot.duration) for shot in shots] == [
        (f"007 4.50 0.5 true {n}", duration) for n in ("001", "10") for duration in (4, 8)
    ]


def test_comments_outside_of_prompts_and_after_quotes_are_comments(tmp_path: Path) -> None:
    (tmp_path / "film.yaml").write_text(
        "project: film # a name\nshots:\n  - id: a # first\n    prompt: 'We are #1' # quoted\n"
        "  - id: b\n    prompt: A dog\n    # for the trailer\n    duration: 5 # s\n"
        "  - id: c\n    prompt: |\n      We are\n      #1 in town\n"
    )
    prompts = [shot.prompt for shot in load_project(tmp_path / "film.yaml").shots]
    assert prompts == ["We are #1", "A dog", "We are\n#1 in town\n"]


def test_a_size_that_is_none_is_not_called_a_name(tmp_path: Path) -> None:
    message = refused(tmp_path, "project: film\nshots: [{id: a, prompt: x, size: 1280*720}]\n")
    assert message == ("film.yaml:2: shot 'a': size: width, `x` and height in pixels, such as 1280x720, not '1280*720'")
