from __future__ import annotations

import importlib.util
import shutil
import sys

spec = importlib.util.spec_from_file_location("tj", __file__.replace("test_tmp_lab", "test_jupyterlab"))
tj = importlib.util.module_from_spec(spec); sys.modules["tj"] = tj; spec.loader.exec_module(tj)
lab, open_notebook = tj.lab, tj.open_notebook

def test_look(open_notebook, lab, landscape_run, molecule_run, screenshots):
    for r in (landscape_run, molecule_run):
        if not (lab.folder / r.name).exists(): shutil.copytree(r, lab.folder / r.name)
    nb = open_notebook("from separatrix_dashboards import dashboard, view", 'view("molecule", "paths")', 'view("molecule", "committor")', "1+1")
    pg = nb.page
    pg.set_viewport_size({"width": 1400, "height": 1300})
    nb.run_all()
    nb.output(2).get_by_role("button", name="Play").wait_for()
    pg.wait_for_timeout(15000)
    def shot(i, name):
        nb.cells.nth(i).scroll_into_view_if_needed(); pg.mouse.move(700, 500); pg.wait_for_timeout(1500); pg.screenshot(path=screenshots / name)
    shot(1, "v1.png"); shot(2, "v2.png")
    print(nb.output(1).locator("canvas").count())
    # tap the tree
    nb.cells.nth(1).locator(".cm-content").click()
    print("buttons", [b.inner_text() for b in nb.output(2).get_by_role("button").all()])
    nb.output(2).get_by_role("button", name="Play").click(); pg.wait_for_timeout(6000); shot(2, "v3.png")
    pg.get_by_role("menuitem", name="Settings", exact=True).click(); pg.get_by_role("menuitem", name="Theme", exact=True).hover(); pg.get_by_role("menuitem", name="JupyterLab Dark", exact=True).click(); pg.wait_for_timeout(4000)
    shot(1, "v4.png"); shot(2, "v5.png")
    print(nb.answer(3, "__import__('separatrix_dashboards.cells').cells._asleep"))
