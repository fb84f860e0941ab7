"""The benchmark's splits and histories: nothing of the future, nobody's test in the training."""

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from authors import DAYS, USERS, articles

from benchmarks import bench as benches
from benchmarks.arms import prompted, references, refuse_leaks, stops_of, times_prior
from benchmarks.bench import Bench, build
from benchmarks.controls import LiveExamples, ShuffledDates, of_strangers, without_histories
from benchmarks.tasks import LAMP, TASKS, choose, tasks_in
from benchmarks.variants import HISTORY
from encoders.examples import DAY
from encoders.llm import FrozenLLM
from encoders.relabelling import batches
from encoders.text import TextEncoder
from encoders.tuning import small_causal
from schemas.config import EncoderConfig, LLMConfig
from schemas.errors import InputError, LeakError, NotFoundError
from schemas.keys import user_hash


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Bench:
    """Headlines of four letters."""
    rng = np.random.default_rng(0)
    return articles(tmp_path_factory.mktemp("data"), tiny_encoder, lambda *_: " ".join(rng.choice(["a", "b", "c", "d"], 4)))


def test_the_splits_do_not_meet(bench: Bench) -> None:
    examples = bench.examples
    assert len(bench.lessons.prompts) > 0
    held = []
    for seed in range(3):
        train, known, new = (bench.rows(seed, split) for split in ("train", "known", "new"))  # type: ignore[arg-type]
        assert examples.now[train].max() < examples.now[np.concatenate([known, new])].min()
        assert set(examples.user[known]) == set(examples.user[train])
        assert not set(examples.user[new]) & set(examples.user[train])
        held.append(set(examples.user[new]))
    assert sum(map(len, held)) == len(set.union(*held)) == len(set(examples.user)) < USERS


def test_the_llm_learns_from_users_and_times_outside_the_test(tmp_path: Path, tiny_encoder: Path) -> None:
    """Each headline says whose it is and when it came."""
    bench = articles(tmp_path, tiny_encoder, lambda user, day: f"{user or 'nobody'} on{day}")
    judged, until = set(bench.examples.user), int(bench.examples.now[bench.test].min()) // DAY
    events = [text.split() for text in bench.texts[bench.event]]
    tested = {name for (name, _), user in zip(events, bench.examples.user, strict=True) if user in judged}
    shown, telling = [], 0
    for prompt, answer, told in zip(bench.lessons.prompts, bench.lessons.targets, bench.lessons.told, strict=True):
        *items, query = prompt.split("; ")
        shown.append(len(items))
        name, day = query.split()[:2]
        assert name not in tested
        assert int(day[2:]) < until
        # Items that tell the answer: of the query's own text, or of none.
        tells = [item for item in items if item.startswith((" => ", f"{name} {day} => "))]
        theirs = [item.split(" => ")[0].split() for item in items if item not in tells]
        assert {who for who, _ in theirs} <= {name}
        assert all(int(on[2:]) < int(day[2:]) for _, on in theirs)
        assert all(item.endswith(f" => {answer}") for item in tells)
        assert not told or items == [f" => {answer}"]
        telling += len(tells) > 0 and not told
    assert set(shown) == {0, 1, 2, 3, 4}
    assert telling > 0


def test_no_user_decides_a_split(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benches, "MAX_OF_USER", 3)
    for split in ("known", "new"):
        rows = bench.rows(0, split)
        assert np.bincount(bench.examples.user[rows]).max() == 3
        assert len(bench.rows(0, split, 4)) == 4
        assert set(bench.rows(0, split, 4)) <= set(rows)
    assert np.bincount(bench.examples.user[bench.rows(0, "train")]).max() > 3


def test_histories_end_at_the_last_night(bench: Bench) -> None:
    refuse_leaks(bench.examples, np.arange(0, len(bench.examples), 17), bench.event)


@pytest.mark.parametrize("leak", ["own event", "same day"])
def test_a_planted_leak_is_caught(bench: Bench, leak: str) -> None:
    """Events that say they were known long ago: the store's own clock would let them into the histories."""
    examples, row = bench.examples, np.array([25])

    class Leaking(type(examples)):  # type: ignore[misc]
        def stops(self, rows: np.ndarray, cut: np.ndarray) -> np.ndarray:
            own = bench.event[rows]
            return own + 1 if leak == "own event" else super().stops(rows, cut + DAY)

    with pytest.raises(LeakError):
        refuse_leaks(Leaking(**vars(examples)), row, bench.event)

    class Trusting(Leaking):
        """Without the check that histories make of themselves."""

        def histories(self, rows: np.ndarray, **options: Any) -> Any:
            stop = self.stops(rows, self.now[rows] // DAY * DAY)[0]
            return self.events(np.arange(self.first[rows][0], stop), np.zeros(stop - self.first[rows][0], np.int64))

    with pytest.raises(LeakError, match="the history of example"):
        refuse_leaks(Trusting(**vars(examples)), row, bench.event)


def test_live_histories_end_at_the_very_second(bench: Bench) -> None:
    """Four events a day, where a night's histories and the second's differ."""
    nightly, rows = bench.examples, np.arange(0, len(bench.examples), 17)
    start = int(nightly.ts.min())
    dense = {name: start + (getattr(nightly, name) - start) // 4 for name in ("ts", "known", "now")}
    nightly = replace(nightly, **dense)
    live = LiveExamples(**vars(nightly))
    refuse_leaks(nightly, rows, bench.event)
    refuse_leaks(live, rows, bench.event, live=True)
    with pytest.raises(LeakError):
        refuse_leaks(live, rows, bench.event)
    for row in rows:
        asked = np.array([row])
        assert stops_of(live, asked) == bench.event[row], "all before the event that is asked"
        more = len(live.histories(asked, size=HISTORY)) - len(nightly.histories(asked, size=HISTORY))
        assert more == dense["now"][row] % DAY // (DAY // 4)


def test_references_and_prompts_see_only_the_past(bench: Bench) -> None:
    rows = bench.rows(0, "known")
    assert references(bench, "own-majority", rows).columns["accuracy"].mean() == 1
    recent = prompted(bench, "recency", rows[:3])
    assert all(prompt.count("=>") == 5 and prompt.endswith(bench.examples.prompts[i]) for prompt, i in zip(recent, rows, strict=False))
    assert prompted(bench, "none", rows[:3]) == [bench.examples.prompts[i] for i in rows[:3]]
    asked, first = bench.examples.prompts[rows[0]], bench.examples.first[rows[0]]
    best = prompted(bench, "bm25", rows[:1])[0]
    assert best.count("=>") == 5
    assert asked in best
    assert all(item in bench.items[first : first + DAYS].tolist() for item in [best.split("; ")[0] + "; "])


def test_an_llm_that_knows_nothing_follows_the_users_prior(bench: Bench) -> None:
    torch.manual_seed(0)
    model, tokenizer = small_causal([*bench.lessons.prompts, *bench.labels * 50], width=48, layers=1)
    rows = bench.rows(0, "new")[:20]
    assert times_prior(bench, FrozenLLM(model, tokenizer, LLMConfig()), rows, weight=0.01).columns["accuracy"].mean() == 1


def test_the_controls_change_what_they_say(bench: Bench) -> None:
    examples, rows = bench.examples, np.arange(0, len(bench.examples), 5)
    assert len(without_histories(examples).histories(rows, size=HISTORY)) == 0
    strangers = of_strangers(examples, 0)
    assert not (strangers.first == examples.first).any()
    refuse_leaks(strangers, rows[:20], bench.event)
    plain, shuffled = (e.histories(rows, size=HISTORY) for e in (examples, ShuffledDates(**vars(examples))))
    assert not np.array_equal(plain.ts, shuffled.ts)
    for user in range(len(rows)):
        np.testing.assert_array_equal(np.sort(plain.ts[plain.user == user]), np.sort(shuffled.ts[shuffled.user == user]))
    np.testing.assert_array_equal(plain.key, shuffled.key)


def test_a_control_is_one_in_training_too(bench: Bench) -> None:
    """Where labels repeat, every batch comes of the examples and their copies together."""
    shuffled = ShuffledDates(**vars(bench.examples))
    rows = bench.rows(0, "train")
    drawn = batches(shuffled, rows, 8, 0.5, np.random.default_rng(0))
    seen = np.zeros(2, bool)
    for (shown, chosen, copy), _ in zip(drawn, range(5), strict=False):
        histories = shown.histories(chosen, size=HISTORY)
        out_of_order = [(np.diff(histories.ts[histories.user == one]) < 0).any() for one in range(len(chosen))]
        for kind in (False, True):
            seen[int(kind)] |= np.any(np.array(out_of_order)[copy == kind])
    assert seen.all()


def test_shuffled_dates_leave_the_earlier_items_where_they_are(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.controls.LATEST", 5)
    rows = np.flatnonzero(bench.test)[-6:]
    plain, shuffled = (e.histories(rows, size=HISTORY) for e in (bench.examples, ShuffledDates(**vars(bench.examples))))
    for user in range(len(rows)):
        before, after = plain.ts[plain.user == user], shuffled.ts[shuffled.user == user]
        np.testing.assert_array_equal(before[:-5], after[:-5])
        np.testing.assert_array_equal(np.sort(before[-5:]), np.sort(after[-5:]))
    assert not np.array_equal(plain.ts, shuffled.ts)


def test_known_users_have_examples_in_training(tmp_path: Path, tiny_encoder: Path) -> None:
    """Two authors begin when the test does."""
    late = {"author1", "author5"}
    began = 1_500_000_000 // DAY + DAYS - 11
    made = articles(tmp_path, tiny_encoder, lambda user, day: "a b", lambda user, day: user not in late or day >= began)
    for seed in range(3):
        train, known, new = (made.rows(seed, split) for split in ("train", "known", "new"))  # type: ignore[arg-type]
        assert set(made.examples.user[known]) <= set(made.examples.user[train])
        assert len(known) > 0
        # Nobody is known and new; who came late and is not held out is neither.
        assert not set(made.examples.user[known]) & set(made.examples.user[new])
    came_late = set(made.examples.user) - set(made.examples.user[~made.test])
    assert came_late
    assert not came_late & {user for seed in range(3) for user in made.examples.user[made.rows(seed, "known")]}
    assert came_late <= {user for seed in range(3) for user in made.examples.user[made.rows(seed, "new")]}


def test_a_missing_file_is_named(tmp_path: Path, tiny_encoder: Path) -> None:
    encoder = TextEncoder(EncoderConfig(model=str(tiny_encoder), max_tokens=16))
    with pytest.raises(NotFoundError, match="movielens_latest_small"):
        build(next(t for t in TASKS if t.name == "rating"), tmp_path, tmp_path, encoder, LLMConfig())


def test_other_data_in_the_same_form_runs_by_name(tmp_path: Path) -> None:
    """Without a change of code: a repository, news and ratings that nobody has named here."""
    (tmp_path / "sundaily_news.jsonl.gz").touch()
    (tmp_path / "stars_latest_small").mkdir()
    with gzip.open(tmp_path / "commits_redis.jsonl.gz", "wt") as file:
        row = {"user": "u", "ts": 1_600_000_000, "commit_ts": 1_600_000_500, "subject": "net: fix a leak", "body": "", "top_dir": "net"}
        file.writelines(json.dumps({**row, "sha": str(number)}) + "\n" for number in range(3))
    found = {(task.name, task.data) for task in tasks_in(tmp_path)}
    assert found == {
        ("news-category", "sundaily"),
        ("news-headline", "sundaily"),
        ("rating", "stars"),
        ("commit-area", "redis"),
        ("commit-subject", "redis"),
    }
    (area,) = choose(tmp_path, ["commit-area"], "redis")
    events = area.events(tmp_path)
    assert events["text"].to_list() == ["fix a leak"] * 3
    assert events["known"].to_list() == [1_600_000_500] * 3
    assert len(choose(tmp_path, [])) == 5
    with pytest.raises(NotFoundError, match=r"no commit-area of git; there is .*commit-area \(redis\)"):
        choose(tmp_path, ["commit-area"], "git")
    with pytest.raises(NotFoundError, match="no LaMP-3") as caught:
        choose(tmp_path, ["LaMP-3", "rating"])
    assert "LaMP_3" in str(caught.value)


def test_lamps_own_layout_is_read(tmp_path: Path, tiny_encoder: Path) -> None:
    """Profiles are the past, dev and train questions the test; a question without an answer is left out."""
    folder = tmp_path / "LaMP_2N"
    folder.mkdir()
    for split, users in (("train", range(30)), ("dev", range(30, 60))):
        profile = [
            {"id": str(i), "text": f"article {i}", "category": ["food", "crime"][i % 2], "date": f"2020-01-{i + 1:02}"} for i in range(14)
        ]
        question = (
            "Which category does this article relate to among the following categories? Just answer with the category name without further"
            " explanation. categories: [crime, food] article: article {}" + " of food" * 60
        )
        questions = [{"id": str(u), "input": question.format(u), "profile": profile} for u in users]
        golds = [{"id": str(u), "output": "food"} for u in users if u != 31]
        (folder / f"{split}_questions.json").write_text(json.dumps(questions))
        (folder / f"{split}_outputs.json").write_text(json.dumps({"task": "LaMP_2N", "golds": golds}))
    encoder = TextEncoder(EncoderConfig(model=str(tiny_encoder), max_tokens=16))
    made = build(next(t for t in LAMP if t.name == "LaMP-2N"), tmp_path, tmp_path / "cache", encoder, LLMConfig())
    assert made.labels == ["crime", "food"]
    asked = np.flatnonzero(made.test)
    assert {made.examples.targets[i] for i in asked} == {"food"}
    assert all(re.fullmatch("article [0-9]+( of food)+.* =>", made.examples.prompts[i]) for i in asked)
    assert {len(made.examples.prompts[i]) for i in asked} == {400 + len(" =>")}, "an article is more than a headline"
    assert {len(made.examples.histories(asked[[k]], size=HISTORY)) for k in range(len(asked))} == {14}
    refuse_leaks(made.examples, asked, made.event)
    assert len(made.lessons.prompts) > 0


def test_lamps_questions_without_answers_and_files_of_another_form_are_refused(tmp_path: Path) -> None:
    (tmp_path / "LaMP_3").mkdir()
    question = {"id": "1", "input": "review: x", "profile": [{"id": "2", "text": "y", "score": "4", "date": "2020-01-01"}]}
    (tmp_path / "LaMP_3" / "test_questions.json").write_text(json.dumps([question]))
    with pytest.raises(InputError, match="no question has an answer"):
        choose(tmp_path, ["LaMP-3"])[0].events(tmp_path)
    (tmp_path / "odd_news.jsonl.gz").write_bytes(gzip.compress(b'{"title": "x"}\n'))
    with pytest.raises(InputError, match="is not as news-category reads it"):
        choose(tmp_path, ["news-category"])[0].events(tmp_path)


def test_data_of_too_few_users_is_refused(tmp_path: Path, tiny_encoder: Path) -> None:
    with pytest.raises(InputError, match="fewer than six users"):
        articles(tmp_path, tiny_encoder, lambda *_: "a", lambda user, _: user in ("author0", "author1"))
    taking = [f"author{u}" for u in range(USERS) if user_hash(f"author{u}")[0] % 10 >= 3]
    with pytest.raises(InputError, match="no example outside the test to tune the LLM on"):
        articles(tmp_path, tiny_encoder, lambda *_: "a", lambda user, _: user in taking)


def test_replacing_a_field_keeps_the_rest(bench: Bench) -> None:
    some = bench.examples.take(np.array([4, 2]))
    assert some.prompts == [bench.examples.prompts[4], bench.examples.prompts[2]]
    assert replace(some, prompts=[]).targets == [bench.examples.targets[4], bench.examples.targets[2]]
