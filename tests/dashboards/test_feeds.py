"""Feeds and the hub: what changed is published once, to everybody who watches, and to nobody else."""

from __future__ import annotations

import gc
import shutil
import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest

from separatrix import Session
from separatrix.errors import SeparatrixError
from separatrix.records import RunState
from separatrix.store import repair
from separatrix_dashboards import frames
from separatrix_dashboards.feeds import Feed
from separatrix_dashboards.hub import Failure, Hub, Query, UnreadableRun, Watcher
from separatrix_dashboards.notebook import SessionFeed


class Listener(Watcher):
    """A watcher that keeps what it is given."""

    def __init__(self, feed, *queries):
        self.feed, self._queries, self.results, self.told = feed, queries, [], threading.Event()

    def queries(self):
        return self._queries

    def deliver(self, results):
        self.results.append(dict(results))
        self.told.set()


def wait_until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.02)


def test_a_snapshot_shows_what_is_committed(any_feed):
    snapshot = any_feed.snapshot
    assert snapshot.n_shots == snapshot.status.steps
    assert len(snapshot.frames["shot"]) == len(snapshot.frames["features"])
    assert snapshot.frames["features"].shape[1] == len(snapshot.feature_names)
    assert snapshot.frames["cvs"].shape[1] == len(snapshot.cv_names) == len(snapshot.cv_units)
    assert set(snapshot.reports) == set(any_feed.reader.model_versions)
    assert snapshot.model_version == max(snapshot.reports, default=0)
    assert all("event" in event for event in snapshot.events)
    assert any_feed.refresh() is False


def test_descriptors_of_frames_are_read_from_the_disk_when_they_are_looked_at(any_feed, monkeypatch):
    monkeypatch.setattr(frames, "BLOCK", 64)
    feed = Feed(any_feed.path)
    kept, expected = feed.snapshot.frames, any_feed.reader.columns("frames")
    features = kept["features"]
    for name in ("cvs", "shot", "offset"):
        np.testing.assert_array_equal(kept[name], expected[name])
    n = len(features)
    rows = np.flatnonzero(expected["offset"] == 0)
    for chosen in (slice(None), slice(-100, None), slice(3, 200), slice(n, None), rows, rows[3:4], rows[:0]):
        np.testing.assert_array_equal(features[chosen], expected["features"][chosen])
    np.testing.assert_array_equal(features[expected["offset"] == 0], expected["features"][rows])
    np.testing.assert_array_equal(np.asarray(features), expected["features"])
    with pytest.raises(IndexError, match="in a line, got a step of 2"):
        features[::2]


@pytest.mark.parametrize(
    ("method", "look"),
    [
        ("frame_rows", lambda feed: feed.snapshot.frames["cvs"]),
        ("path_positions", lambda feed: feed.positions(0)),
        ("path_frames", lambda feed: feed.solute_positions(0)),
        ("model_report", lambda feed: feed.snapshot.reports[1]),
    ],
)
def test_nobody_waits_for_what_is_read_from_a_slow_disk(landscape_run, monkeypatch, method, look):
    feed, reading, go_on = Feed(landscape_run), threading.Event(), threading.Event()

    def slow(*_, **__):
        reading.set()
        go_on.wait(20)
        raise SeparatrixError("read")

    monkeypatch.setattr(feed.reader, method, slow)
    feed._mark = None

    def read():
        with pytest.raises(SeparatrixError, match="read"):
            look(feed)

    reads = threading.Thread(target=read)
    refreshes = threading.Thread(target=feed.refresh)
    reads.start()
    assert reading.wait(10)
    refreshes.start()
    refreshes.join(10)
    waited = refreshes.is_alive()
    go_on.set()
    reads.join()
    refreshes.join()
    assert not waited
    assert feed.snapshot.revision == 1


def test_rows_of_a_run_go_with_its_feed_and_its_snapshots_and_wait_for_no_collector(any_feed):
    gc.collect()
    gc.disable()
    try:
        feed = Feed(any_feed.path)
        snapshot = feed.snapshot
        seen = [snapshot.frames[name].base for name in ("cvs", "shot", "offset")]
        seen += [column.base for column in snapshot.shots.values()]
        kept = [weakref.ref(each) for each in seen]
        for version in snapshot.reports:
            assert snapshot.reports[version]
        del seen, feed
        assert all(each() is not None for each in kept), "a page shows what it was given"
        del snapshot
        assert [each() for each in kept] == [None] * len(kept)
    finally:
        gc.enable()


def test_snapshots_follow_a_run_that_is_sampled(tmp_path):
    session = Session.create(tmp_path / "run", {"system": {"kind": "hummer-szabo"}})
    feed = Feed(session.path)
    before = feed.snapshot
    session.run(30, workers=0, platform="Reference", progress=False)
    assert feed.refresh()
    after = feed.snapshot
    assert (before.n_shots, after.n_shots) == (0, 30)
    assert after.revision > before.revision
    assert len(before.frames["shot"]) == 0  # an older snapshot shows what was there then
    assert after.frames["shot"].max() == 29


def test_a_live_session_tells_more_than_the_disk(tmp_path):
    session = Session.create(tmp_path / "run", {"system": {"kind": "hummer-szabo"}})
    feed = SessionFeed(session)
    session.start(400, workers=0, platform="Reference")
    try:
        wait_until(lambda: feed.refresh() and feed.snapshot.status.steps > 0)
        assert feed.snapshot.owned
    finally:
        session.stop()
    assert feed.refresh()  # the disk tells the rest, and what another process adds to it
    assert not feed.snapshot.owned
    assert feed.snapshot.status == session.reader.status()


def test_results_are_computed_once_for_all_and_anew_only_when_what_they_depend_on_changes(landscape_run, hub):
    feed = hub.feed(landscape_run)
    calls = []
    query = Query(key="n", compute=lambda feed, snapshot: calls.append(1) or snapshot.n_shots)
    assert hub.result(feed, query) == (True, 300)
    assert hub.result(feed, Query(key="n", compute=query.compute)) == (True, 300)
    assert len(calls) == 1


def test_slow_results_come_later_and_to_every_watcher(landscape_run, hub):
    feed = hub.feed(landscape_run)
    query = Query(key="slow", compute=lambda feed, snapshot: snapshot.n_shots, slow=True)
    listeners = [Listener(feed, query), Listener(feed, query)]
    for listener in listeners:
        hub.add(listener)
    assert hub.result(feed, query) == (False, None)
    assert all(listener.told.wait(10) for listener in listeners)
    assert [listener.results for listener in listeners] == [[{"slow": 300}]] * 2
    assert hub.result(feed, query) == (True, 300)


def test_waiting_earns_a_slow_result_no_rest(landscape_run):
    hub = Hub(landscape_run.parent, rest=1000)
    try:
        feed, revisions = hub.feed(landscape_run), []

        def compute(_, snapshot):
            time.sleep(0.1)
            revisions.append(snapshot.revision)

        query = Query(key="slow", compute=compute, slow=True)
        hub.add(Listener(feed, query))
        for revision in range(4):
            feed.snapshot = replace(feed.snapshot, revision=revision)
            hub.result(feed, query)
            wait_until(lambda revision=revision: revision in revisions)
    finally:
        hub.close()


def test_a_slow_result_of_a_new_stage_does_not_wait_for_the_rest_of_the_old_one(landscape_run):
    hub = Hub(landscape_run.parent, rest=1e6)
    try:
        feed, stages = hub.feed(landscape_run), []

        def compute(_, snapshot):
            sum(range(100_000))
            stages.append(snapshot.revision // 2)

        query = Query(key="slow", compute=compute, slow=True, stage=lambda snapshot: snapshot.revision // 2)
        hub.add(Listener(feed, query))
        for revision in range(4):
            feed.snapshot = replace(feed.snapshot, revision=revision)
            hub.result(feed, query)
            wait_until(lambda revision=revision: len(stages) == revision + 1)
        feed.snapshot = replace(feed.snapshot, revision=2)
        hub.result(feed, query)
        time.sleep(1.0)
        assert stages == [0, 0, 1, 1]  # the second of a stage earns a rest as before
    finally:
        hub.close()


def test_what_a_page_alone_wanted_goes_with_it_while_others_go_on_watching(landscape_run, hub):
    feed = hub.feed(landscape_run)
    shared, *own = (
        Query(key=key, compute=lambda feed, snapshot: np.zeros(10)) for key in ("shared", "path 1", "path 2")
    )
    listeners = [Listener(feed, shared, query) for query in own]
    results = {}
    for listener in listeners:
        hub.add(listener)
        results |= {query.key: weakref.ref(hub.result(feed, query)[1]) for query in listener.queries()}
    hub.remove(listeners[0])
    hub._publish(feed)  # what was computed for a page is told once to the others
    listeners[1].results.clear()
    gc.collect()
    assert {key for key, result in results.items() if result() is not None} == {"shared", "path 2"}


def test_a_result_that_fails_says_why_and_disturbs_nothing_else(landscape_run, hub):
    def fail(*_):
        raise SeparatrixError("no such map")

    there, result = hub.result(hub.feed(landscape_run), Query(key="map", compute=fail))
    assert there
    assert result == Failure(message="no such map")


def test_watchers_hear_of_commits_within_a_second_and_no_more_when_they_left(tmp_path):
    session = Session.create(tmp_path / "run", {"system": {"kind": "hummer-szabo"}})
    hub = Hub(tmp_path)
    try:
        feed = hub.feed("run")
        query = Query(key="n", compute=lambda feed, snapshot: snapshot.n_shots)
        listener = Listener(feed, query)
        hub.result(feed, query)
        hub.add(listener)
        session.run(20, workers=0, platform="Reference", progress=False)
        wait_until(lambda: any(results.get("n") == 20 for results in listener.results))
        hub.remove(listener)
        assert hub.n_watchers == 0
        heard = len(listener.results)
        session.run(40, workers=0, platform="Reference", progress=False)
        time.sleep(1.0)
        assert len(listener.results) == heard
    finally:
        hub.close()


def test_a_run_deleted_under_its_viewers_leaves_them_what_they_saw_and_others_go_on(landscape_run, empty_run, tmp_path):
    gone, other = shutil.copytree(landscape_run, tmp_path / "gone"), shutil.copytree(empty_run, tmp_path / "other")
    hub = Hub(tmp_path)
    try:
        feeds = [hub.feed(path) for path in (gone, other)]
        query = Query(key="n", compute=lambda feed, snapshot: snapshot.n_shots)
        listeners = [Listener(feed, query) for feed in feeds]
        for listener in listeners:
            hub.add(listener)
        assert [hub.result(feed, query) for feed in feeds] == [(True, 300), (True, 0)]
        shutil.rmtree(gone)
        wait_until(lambda: gone not in hub._feeds)
        assert feeds[0].snapshot.n_shots == len(feeds[0].snapshot.shots["chain"]) == 300
        Session.open(other).run(20, workers=0, platform="Reference", progress=False)
        wait_until(lambda: any(results.get("n") == 20 for results in listeners[1].results))
        assert [run.name for run in hub.runs()] == ["other"]
    finally:
        hub.close()


def test_nothing_is_left_of_shots_that_a_repair_gave_up(landscape_run, hub, tmp_path):
    path = shutil.copytree(landscape_run, tmp_path / "run")
    feed = Feed(path)
    query = Query(key="times", compute=lambda feed, snapshot: snapshot.shots["time"], depends=lambda snapshot: 0)
    n, (_, times) = feed.snapshot.n_shots, hub.result(feed, query)
    known = feed.cached("key", object), feed.snapshot.frames["shot"], feed.snapshot.reports[1]
    (file,) = (path / "run.zarr" / "shots" / "time").glob("c.*")
    content = bytearray(file.read_bytes())
    content[8 * (n - 5) : 8 * n] = bytes(8 * 5)
    file.write_bytes(content)
    kept = repair(path).after.shots
    assert feed.refresh()
    assert feed.snapshot.n_shots == kept < n
    assert len(hub.result(feed, query)[1]) == kept
    assert set(feed.snapshot.frames["shot"]) <= set(range(kept))
    assert feed.cached("key", object) is not known[0]
    assert feed.snapshot.reports[1] is not known[2]
    Session.open(path).run(n, workers=0, platform="Reference", progress=False)
    assert feed.refresh()
    assert not np.array_equal(feed.snapshot.shots["time"], times)
    np.testing.assert_array_equal(feed.snapshot.shots["time"], Feed(path).snapshot.shots["time"])
    np.testing.assert_array_equal(feed.snapshot.frames["shot"], Feed(path).snapshot.frames["shot"])


@pytest.fixture
def replaced(landscape_run, tmp_path):
    """Return a hub that knows a run, its feed, and what puts another run in its place."""
    path = shutil.copytree(landscape_run, tmp_path / "run")
    hub = Hub(tmp_path)

    def replace_by(other):
        shutil.rmtree(path)
        shutil.copytree(other, path)

    yield hub, hub.feed("run"), replace_by
    hub.close()


def test_a_run_that_took_the_place_of_another_is_read_anew(replaced, uniform_run, empty_run):
    hub, feed, replace_by = replaced
    for other in (uniform_run, empty_run):  # shorter ones
        replace_by(other)
        with pytest.raises(SeparatrixError, match="another took its place"):
            hub.look(feed)
        feed, expected = hub.feed("run"), Feed(other).snapshot
        hub.look(feed)
        assert feed.snapshot.n_shots == expected.n_shots
        assert feed.snapshot.config == expected.config
        assert list(feed.snapshot.reports) == list(expected.reports)


def test_an_open_page_of_what_was_there_before_takes_nothing_from_the_gallery(replaced, uniform_run):
    hub, feed, replace_by = replaced
    listener = Listener(feed)
    hub.add(listener)
    replace_by(uniform_run)
    newer = hub.feed("run")
    assert newer.snapshot.n_shots == 150
    wait_until(lambda: hub.runs() == (newer.snapshot,))
    time.sleep(1.0)  # the old feed is looked at meanwhile
    assert hub.runs() == (newer.snapshot,)
    assert listener.results in ([], [{}])  # told at most once, and not with every look
    assert feed.snapshot.n_shots == 300


def test_a_look_that_failed_is_repeated(landscape_run, monkeypatch):
    feed = Feed(landscape_run)
    monkeypatch.setattr(feed, "_mark", None)

    def fail():
        raise SeparatrixError("damaged")

    with monkeypatch.context() as patch:
        patch.setattr(feed.reader, "status", fail)
        for _ in range(2):
            with pytest.raises(SeparatrixError, match="damaged"):
                feed.refresh()
    assert feed.refresh()
    assert not feed.refresh()


def test_the_gallery_finds_runs_new_ones_and_damaged_ones(landscape_run, empty_run, tmp_path):
    shutil.copytree(landscape_run, tmp_path / "group" / "one")
    shutil.copytree(empty_run, tmp_path / "two")
    (tmp_path / "two" / "config.toml").write_text("nonsense")
    hub = Hub(tmp_path)
    try:
        first, second = hub.runs()
        assert (first.name, first.n_shots) == ("group/one", 300)
        assert isinstance(second, UnreadableRun)
        assert "config.toml" in second.error
        changed = threading.Event()
        end = hub.watch_runs(changed.set)
        shutil.copytree(empty_run, tmp_path / "three")
        assert changed.wait(10)
        wait_until(lambda: "three" in [run.name for run in hub.runs()])
        end()
    finally:
        hub.close()


def test_what_a_page_computes_when_it_opens_is_told_to_who_watches_already(landscape_run, hub):
    feed = hub.feed(landscape_run)
    query = Query(key="n", compute=lambda feed, snapshot: snapshot.n_shots)
    listener = Listener(feed, query)
    hub.add(listener)
    assert hub.result(feed, query) == (True, 300)
    wait_until(lambda: {"n": 300} in listener.results)


def test_who_looked_later_is_not_set_back_by_who_computes_for_longer(tmp_path):
    """As when the hub works out a run as it was, while a page that opens looks again and is the quicker."""
    session = Session.create(tmp_path / "run", {"system": {"kind": "hummer-szabo"}})
    hub = Hub(tmp_path)
    hub.close()  # its thread; what follows is done here
    feed, inside, go_on = hub.feed(session.path), threading.Event(), threading.Event()

    def compute(_, snapshot):
        if snapshot.n_shots == 0:
            inside.set()
            assert go_on.wait(20)
        return snapshot.n_shots

    query = Query(key="n", compute=compute)
    listener = Listener(feed, query)
    hub.add(listener)
    earlier = threading.Thread(target=hub._publish, args=(feed,))
    earlier.start()
    assert inside.wait(20)
    session.run(30, workers=0, progress=False)
    hub.look(feed)
    assert hub.result(feed, query) == (True, 30)
    go_on.set()
    earlier.join(20)
    assert listener.results == [{"n": 30}]
    assert hub.result(feed, query) == (True, 30)
    assert hub.newest(feed, "n", None) == 30
    assert hub.newest(feed, "other", 7) == 7


def test_whoever_clicked_last_is_told_first(landscape_run):
    hub = Hub(landscape_run.parent)
    hub.close()  # its thread; what follows is done here
    feed, order = hub.feed(landscape_run), []
    listeners = [Listener(feed) for _ in range(3)]
    for number, listener in enumerate(listeners):
        listener.deliver = lambda results, number=number: order.append(number)
        hub.add(listener)
    for clicked in ([], [1], [1, 2]):
        for number in clicked:
            hub.refresh(listeners[number])
        hub._publish(feed)
    assert order == [0, 1, 2, 1, 0, 2, 2, 1, 0]


def test_after_a_click_a_new_state_is_told_before_anything_is_computed(landscape_run, monkeypatch):
    hub = Hub(landscape_run.parent)
    hub.close()
    feed, calls = hub.feed(landscape_run), []
    listener = Listener(feed, Query(key="n", compute=lambda feed, snapshot: calls.append(1)))
    hub.add(listener)
    monkeypatch.setattr(feed, "refresh", lambda: True)
    hub._told[feed] = RunState.RUNNING
    hub._round(whole=False)
    assert listener.results == []  # nobody clicked: it goes with the rest
    hub.refresh(listener)
    hub._round(whole=False)
    assert (listener.results, calls) == ([{}], [])
    hub._round()
    assert listener.results == [{}, {"n": None}]


@pytest.mark.parametrize("name", ["../outside", "/etc", "a/../../b"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    hub = Hub(tmp_path)
    try:
        with pytest.raises(SeparatrixError, match="expected a run below"):
            hub.feed(name)
    finally:
        hub.close()


def test_what_is_shared_stays_one_while_somebody_has_it_and_a_few_stay_longer(landscape_run):
    class Thing:
        pass

    feed = Feed(landscape_run)
    held = feed.shared("held", Thing)
    let_go = weakref.ref(feed.shared("let go", Thing))
    assert feed.shared("let go", Thing) is let_go()
    for key in range(100):
        feed.shared(key, Thing)
    assert feed.shared("held", Thing) is held
    gc.collect()
    assert let_go() is None


def test_what_was_computed_for_a_key_is_kept_and_computed_by_one_thread_alone(landscape_run):
    feed, calls = Feed(landscape_run), []

    def compute():
        calls.append(1)
        time.sleep(0.2)
        return np.arange(3)

    threads = [threading.Thread(target=lambda: feed.cached("key", compute)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
