"""Templates of project files: variables, prompt parts, matrices, seeds."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from prefect_video.errors import InvalidInput
from prefect_video.project_files import load_project, project_schema
from prefect_video.projects import Project
from prefect_video.shots import Shot


def load(folder: Path, text: str) -> Project:
    path = folder / "film.yaml"
    path.write_text(dedent(text))
    return load_project(path)


def test_variables_prefix_and_suffix_make_up_the_prompt(tmp_path: Path) -> None:
    project = load(
        tmp_path,
        """
        project: film
        variables: {hero: a red fox, year: 1970}
        defaults: {prompt_prefix: "Super 8, {year}.", prompt_suffix: "\\nNo text.", metadata: {cast: "{hero}"}}
        shots:
          - {id: one, prompt: "{hero} says {{hello}}"}
          - {id: two, prompt: A lake, prompt_prefix: "", metadata: {cast: none}}
        """,
    )
    assert [shot.prompt for shot in project.shots] == [
        "Super 8, 1970. a red fox says {hello}\nNo text.",
        "A lake\nNo text.",
    ]
    assert [shot.metadata for shot in project.shots] == [{"cast": "a red fox"}, {"cast": "none"}]
    # What a flow's parameters have been through, the expanded braces survive.
    assert Project.model_validate(project.model_dump(mode="json", by_alias=True)) == project


def test_braces_are_braces_where_nothing_is_a_template(tmp_path: Path) -> None:
    prompt = '{"scene": "a cat", "light": {"key": "soft"}}'
    project = load(tmp_path, f"project: film\nshots:\n  - {{id: one, prompt: '{prompt}'}}\n")
    assert project.shots[0].prompt == prompt


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("A {colour} cat", "{colour} is not a variable; there are: hero"),
        ("A {hero.__class__} cat", "`{hero.__class__}` is no placeholder"),
        ("A { cat", "`{` is no placeholder"),
    ],
)
def test_an_unknown_placeholder_is_refused_with_line_shot_and_field(tmp_path: Path, prompt: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        load(
            tmp_path,
            f"""
            project: film
            variables: {{hero: a fox}}
            shots:
              - id: one
                prompt: "{prompt}"
            """,
        )
    assert f"film.yaml:6: shot 'one': prompt: {reason}" in str(refused.value)


def test_a_matrix_is_a_shot_for_each_combination_with_a_name_from_its_values(tmp_path: Path) -> None:
    project = load(
        tmp_path,
        """
        project: film
        shots:
          - id: skyline
            prompt: The skyline of {city} at {light}
            matrix: {city: [Rio de Janeiro, 東京], light: [dawn, dusk], duration: [4]}
          - {id: "end-{look}", prompt: The end, matrix: {look: [Warm]}, depends_on: [skyline]}
          - {id: last, prompt: "{as it is}", depends_on: [end-warm]}
        """,
    )
    ids = ["skyline-rio-de-janeiro-dawn-4", "skyline-rio-de-janeiro-dusk-4", "skyline-2-dawn-4", "skyline-2-dusk-4"]
    assert [shot.id for shot in project.shots] == [*ids, "end-warm", "last"]
    assert project.shots[2].prompt == "The skyline of 東京 at dawn"
    assert [shot.duration for shot in project.shots] == [4, 4, 4, 4, 10, 10]
    assert project.shots[4].depends_on == tuple(ids)
    assert project.shots[5].prompt == "{as it is}"


def test_an_error_in_a_variant_names_the_line_of_its_shot(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"film\.yaml:5: shot 'late': duration: at most"):
        load(
            tmp_path,
            """
            project: film
            shots:
              - {id: many, prompt: "{n}", matrix: {n: [1, 2, 3]}}
              - {id: late, prompt: x, duration: 99}
            """,
        )
    with pytest.raises(InvalidInput, match=r"film\.yaml:4: shot 'many': matrix: it makes over 10,000 shots"):
        load(
            tmp_path,
            f"""
            project: film
            shots:
              - {{id: many, prompt: x, matrix: {{a: {list(range(101))}, b: {list(range(101))}}}}}
            """,
        )


def test_takes_have_seeds_of_their_own() -> None:
    assert [Shot(id="a", prompt="x", seed=7, takes=3).for_take(take).seed for take in (1, 2, 3)] == [7, 8, 9]
    given = Project.model_validate(
        {"project": "film", "defaults": {"seed": 5, "takes": 4}, "shots": [{"id": "a", "prompt": "x", "seeds": [3, 1]}]}
    ).shots[0]
    assert (given.takes, given.for_take(1).seed, given.for_take(2).seed) == (2, 3, 1)
    # A job's shot is read back from the ledger as that of its take.
    assert Shot.model_validate_json(given.for_take(2).model_dump_json()).seed == 1
    for wrong in ({"seeds": [1, 1]}, {"seeds": [1, 2], "takes": 3}, {"seeds": [1, 2], "seed": 9}):
        with pytest.raises(ValueError, match="seeds"):
            Shot.model_validate({"id": "a", "prompt": "x", **wrong})


def test_the_schema_has_the_fields_of_templates() -> None:
    schema = project_schema()
    assert "variables" in schema["properties"]
    assert {"matrix", "prompt_prefix"} <= schema["$defs"]["Shot"]["properties"].keys()
    assert "prompt_suffix" in schema["$defs"]["ShotDefaults"]["properties"]
