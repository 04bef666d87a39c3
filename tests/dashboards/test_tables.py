"""Pages of runs that were made from tables: what there is, and words for what does not exist."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from tests.page_document import DOCUMENT, push

from separatrix import learn
from separatrix_dashboards.feeds import Feed
from separatrix_dashboards.hub import Failure, Hub
from separatrix_dashboards.pages.cards import card_facts, card_html
from separatrix_dashboards.pages.head import facts, progress_html
from separatrix_dashboards.views.base import Watch
from separatrix_dashboards.views.committor import draw_shooting_points, map_query
from separatrix_dashboards.views.committor_axes import first_choice
from separatrix_dashboards.views.live import given_html, trainings_html
from separatrix_dashboards.views.paths.view import empty_words
from separatrix_dashboards.views.registry import VIEWS


@pytest.fixture(scope="module")
def one_column(tmp_path_factory):
    """Return a run that was made from a table with a single column."""
    folder = tmp_path_factory.mktemp("column")
    x = np.linspace(-2, 2, 60)
    n_b = np.random.default_rng(2).binomial(4, expit(2 * x))
    np.savez(folder / "shots.npz", **{"r in nm": x, "n_A": 4 - n_b, "n_B": n_b})
    return learn(folder / "shots.npz", folder / "run", counts=["n_A", "n_B"]).folder


@pytest.fixture(params=["table_run", "one_column"])
def table_feed(request):
    """Return the feed of a run made from a table, with two columns and with one."""
    return Feed(request.getfixturevalue(request.param))


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_of_a_table_is_made_and_computes_without_failure(table_feed, view):
    hub = Hub()
    watch = Watch(hub, hub.feed(table_feed.path), push=push)
    scope = watch.scope()
    with DOCUMENT:
        VIEWS[view](scope).__panel__()
    for query in scope.queries():
        result = query.compute(watch.feed, watch.feed.snapshot)
        assert not isinstance(result, Failure)
    hub.close()


def test_a_map_shows_where_shots_ended(table_feed):
    snapshot = table_feed.snapshot
    shown = map_query(first_choice(snapshot)).compute(table_feed, snapshot)
    assert {"model", "given", "frames"} <= shown.holds
    assert "configurations of the table" in shown.notes[0]
    assert not any("outlined" in note for note in shown.notes)


def test_what_is_foretold_of_a_row_comes_from_networks_that_hold_it_out(table_feed):
    snapshot = table_feed.snapshot
    report = snapshot.reports[snapshot.model_version]
    assert np.array_equal(snapshot.foretold_q, report["held_out_q"])  # every row is held out by one of four
    bars = draw_shooting_points(table_feed, snapshot)
    grey, green = (np.asarray(leaf.dimension_values("shot_count")).sum() for leaf in bars)
    both = (snapshot.shots["n_A"] > 0) & (snapshot.shots["n_B"] > 0)
    assert (grey, green) == (snapshot.n_shots, both.sum())


def test_the_head_and_the_card_tell_what_was_learned_from_what(table_feed):
    snapshot = table_feed.snapshot
    n_shots = int(snapshot.shots["n_A"].sum() + snapshot.shots["n_B"].sum())
    numbers = {name: number for name, number, _ in facts(snapshot)}
    assert numbers["configurations"] == str(snapshot.n_shots)
    assert numbers["shots"] == str(n_shots)
    assert numbers["held-out loss"] == f"{snapshot.status.validation_loss:.3f}"
    assert "Made from shots.npz" in progress_html(snapshot, None)
    card = card_html(card_facts(snapshot), 0.0)
    for word in ("Shots from shots.npz", f"{n_shots}", "held-out loss", "configurations"):
        assert word in card
    for word in ("yield", "expected", "steps</span>"):
        assert word not in card


def test_words_for_what_a_table_does_not_have(table_feed):
    snapshot = table_feed.snapshot
    assert "holds configurations" in empty_words(snapshot)
    assert f"{snapshot.n_shots - 1}</td>" in given_html(snapshot)
    assert trainings_html(snapshot).count("<tr>") == 1 + len(snapshot.reports)
