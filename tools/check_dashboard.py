#!/usr/bin/env python3
"""Checks the dashboard in headless Chromium: what is there, what moves, what obeys, what it costs.

    pip install playwright          # and Debian's package chromium
    tools/check_dashboard.py [--program build/pmd-agent] [--shots DIR] [--results FILE.md]

Exit status 0: every check passed. The C tests (tests/test_dash.c ...) cover the server's side without a browser.
"""
import argparse
import contextlib
import datetime
import os
import platform
import re
import subprocess
import sys
import tempfile
import time

from playwright.sync_api import sync_playwright

checks, figures = [], []


def check(name, good, detail=""):
    checks.append((name, bool(good), detail))
    print(("ok      " if good else "FAILED  ") + name + (f": {detail}" if detail else ""), flush=True)


def figure(name, value, limit=""):
    figures.append((name, value, limit))
    print(f"        {name}: {value} {limit}", flush=True)


@contextlib.contextmanager
def program(arguments, pattern=r"(http://127\.0\.0\.1:\d+/)"):
    """Starts the program, yields (process, address of its page), ends it."""
    log = tempfile.NamedTemporaryFile("w+", suffix=".log")
    process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(200):
            time.sleep(0.1)
            found = re.search(pattern, open(log.name).read())
            if found:
                break
            if process.poll() is not None:
                raise SystemExit(f"{arguments} ended: {open(log.name).read()}")
        else:
            raise SystemExit(f"{arguments}: no address was printed")
        yield process, found.group(1)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def cpu_seconds(process):
    fields = open(f"/proc/{process.pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Page:
    """A page that remembers everything that went wrong in it."""

    def __init__(self, browser, url, width=1280, height=900, theme="light", scale=1):
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme, device_scale_factor=scale)
        self.page = self.context.new_page()
        self.problems, self.foreign = [], []
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.problems.append(str(e)))
        self.page.on("request", lambda r: self.foreign.append(r.url) if not r.url.startswith((url, url.replace("http", "ws"), "data:")) else None)
        self.page.goto(url)
        self.wait("document.getElementById('state').dataset.kind !== 'wait'")

    def text(self, selector):
        return self.page.inner_text(selector)

    def wait(self, expression, seconds=10):
        """Not by wait_for_function: that evaluates in the page, which its content security policy forbids."""
        end = time.time() + seconds
        while not self.page.evaluate(f"!!({expression})"):
            if time.time() > end:
                return False
            time.sleep(0.05)
        return True

    def close(self):
        self.context.close()


RATE = """(seconds) => new Promise((done) => {
  const canvas = document.getElementById('screen'), start = performance.now(), numbers = new Set();
  const observer = new MutationObserver(() => numbers.add(canvas.dataset.frame));
  observer.observe(canvas, { attributes: true, attributeFilter: ['data-frame'] });
  setTimeout(() => { observer.disconnect(); done(numbers.size * 1000 / (performance.now() - start)); }, seconds * 1000);
})"""

CONTRAST = """() => {
  const light = (c) => { const f = c.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
  const parse = (s) => (s.match(/[\\d.]+/g) || []).map(Number);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0.5) return c.slice(0, 3); } return [255, 255, 255]; };
  let worst = [99, ''];
  for (const e of document.querySelectorAll('main *, header *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.disabled || e.closest(':disabled')) continue;
    const a = light(parse(getComputedStyle(e).color).slice(0, 3)), b = light(ground(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst[0]) worst = [ratio, e.id || e.className || e.tagName, e.textContent.slice(0, 30)];
  }
  return worst;
}"""

NAMES = """() => [...document.querySelectorAll('button, input, select, canvas, section')].filter((e) => {
  if (!e.getClientRects().length) return false;
  const label = e.getAttribute('aria-label') || (e.getAttribute('aria-labelledby') && document.getElementById(e.getAttribute('aria-labelledby'))?.textContent);
  return !(label || e.textContent.trim() && e.tagName === 'BUTTON' || e.labels?.length && e.labels[0].textContent.trim());
}).map((e) => e.outerHTML.slice(0, 80))"""

PARTS = ["screen", "map", "lanes", "scrub", "pause", "step", "speed", "drive", "action", "by", "answer", "prompt", "split", "rates", "memory-use", "team", "bag", "log", "fog", "theme"]


def looks(browser, url, shots):
    """Both widths, both themes."""
    for width, height, scale in ((1280, 900, 1), (390, 844, 3)):
        for theme in ("light", "dark"):
            p = Page(browser, url, width, height, theme, scale)
            what = f"{width} px, {theme}"
            check(f"{what}: frames advance", p.wait("Number(document.getElementById('screen').dataset.frame) > 0"))
            p.wait("document.querySelectorAll('#team li').length > 0")
            missing = [i for i in PARTS if not p.page.query_selector("#" + i)]
            check(f"{what}: all parts are there", not missing, ", ".join(missing))
            wide = p.page.evaluate("document.documentElement.scrollWidth")
            check(f"{what}: nothing sticks out", wide <= width, f"{wide} px")
            check(f"{what}: theme is followed", p.page.evaluate("document.documentElement.dataset.theme") == theme)
            worst = p.page.evaluate(CONTRAST)
            check(f"{what}: text contrast is 4.5 or more", worst[0] >= 4.5, f"worst {worst[0]:.2f} ({worst[1]})")
            times = p.page.evaluate("(() => { const c = document.getElementById('screen'); return c.getBoundingClientRect().width * devicePixelRatio / 240; })()")
            check(f"{what}: whole pixels", abs(times - round(times)) < 0.01 and times >= 1, f"{times:.2f} times")
            small = p.page.evaluate("[...document.querySelectorAll('#controls button, #controls select')].filter((e) => e.getBoundingClientRect().height < %d).length" % (44 if width < 500 else 36))
            check(f"{what}: controls are large enough", small == 0)
            check(f"{what}: everything has a name", not p.page.evaluate(NAMES), str(p.page.evaluate(NAMES)[:2]) if p.page.evaluate(NAMES) else "")
            if shots:
                p.page.screenshot(path=f"{shots}/{width}-{theme}.png", full_page=True)
            check(f"{what}: no errors, no other host", not p.problems and not p.foreign, "; ".join((p.problems + p.foreign)[:3]))
            p.close()


def weight(browser, url):
    p = Page(browser, url)
    time.sleep(1)
    size = p.page.evaluate("[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')].filter((e) => !e.name.includes('/api/')).reduce((a, e) => a + e.transferSize, 0)")
    plain = p.page.evaluate("[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')].filter((e) => !e.name.includes('/api/')).reduce((a, e) => a + e.decodedBodySize, 0)")
    figure("whole page, as sent", f"{size / 1024:.1f} KB", "<= 200 KB")
    figure("whole page, unpacked", f"{plain / 1024:.1f} KB")
    check("page size", size <= 200 * 1024)
    p.close()
    paints = []
    for _ in range(9):
        p = Page(browser, url)
        p.wait("performance.getEntriesByName('first-contentful-paint').length > 0")
        paints.append(p.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        p.close()
    paints.sort()
    figure("first contentful paint, median of 9", f"{paints[4]:.0f} ms ({paints[0]:.0f} to {paints[-1]:.0f})", "<= 500 ms")
    check("first paint, median", paints[4] <= 500)


def rate_and_cost(browser, process, url, seconds=10):
    p = Page(browser, url)
    p.page.select_option("#speed", "1")
    time.sleep(2)
    rates, shares = [], []
    for _ in range(3):
        before, at = cpu_seconds(process), time.time()
        rates.append(p.page.evaluate(RATE, seconds))
        shares.append((cpu_seconds(process) - before) / (time.time() - at))
    rate, share = max(rates), max(shares)
    figure("pictures shown, three windows of 10 s", ", ".join(f"{r:.1f}" for r in rates) + " a second", "60 (the console draws 59.73)")
    figure("program while a client looks (emulator, agent, server)", ", ".join(f"{100 * s:.1f}" for s in shares) + " % of one core", "< 10 %")
    check("60 pictures a second in the best window", rate >= 57, f"{rate:.1f}")
    check("less than 10 % of one core", share < 0.10, f"{100 * share:.1f} %")
    p.close()
    time.sleep(1)
    before, at = cpu_seconds(process), time.time()
    time.sleep(5)
    figure("the same game at the same pace, nobody looks", f"{100 * (cpu_seconds(process) - before) / (time.time() - at):.1f} % of one core")


def number(text):
    return int(re.search(r"step (\d+)", text).group(1))


def controls(browser, url):
    p = Page(browser, url)
    frame = "Number(document.getElementById('screen').dataset.frame)"
    p.page.click("#pause")
    check("pause: said", p.wait("document.getElementById('state').textContent === 'paused'"))
    time.sleep(0.5)
    still = p.page.evaluate(frame)
    time.sleep(1)
    check("pause: the game stands still", p.page.evaluate(frame) == still)
    first = number(p.text("#time-note"))
    p.page.click("#step")
    p.wait(f"!/^step {first} /.test(document.getElementById('time-note').textContent)")
    time.sleep(1)
    second = number(p.text("#time-note"))
    check("step: one decision, then paused again", second == first + 1 and p.text("#state") == "paused", f"{first} to {second}")
    p.page.keyboard.press("Escape")
    p.page.evaluate("document.activeElement.blur()")
    p.page.keyboard.press("Space")
    check("space resumes", p.wait(f"{frame} > {still} + 60") and p.text("#state") == "live")
    p.page.select_option("#speed", "4")
    check("speed: taken", p.wait("document.getElementById('speed').value === '4'"))
    p.page.select_option("#speed", "1")
    p.page.click("#drive")
    check("take over: said", p.wait("document.getElementById('state').textContent === 'you play'") and p.page.is_visible("#pad"))
    for key in ("ArrowUp", "ArrowLeft", "ArrowRight", "ArrowDown"):
        p.page.keyboard.down(key)
        time.sleep(0.3)
        p.page.keyboard.up(key)
        time.sleep(0.5)
    check("take over: what is pressed is a person's step", p.wait("document.getElementById('by').dataset.by === 'human'", 15), p.text("#reason"))
    p.page.keyboard.press("Escape")
    check("hand back: the agent decides again", p.wait("document.getElementById('state').textContent === 'live' && document.getElementById('by').dataset.by !== 'human'", 20))
    count = int(p.page.get_attribute("#scrub", "max"))
    p.page.evaluate("(() => { const s = document.getElementById('scrub'); s.value = Math.floor(s.max / 2); s.dispatchEvent(new Event('input')); })()")
    check("timeline: a step of the past", p.wait("document.getElementById('state').textContent === 'looking back'") and p.page.is_visible("#newest"))
    time.sleep(0.5)
    shown = number(p.text("#decision-number"))
    check("timeline: it is that step", shown <= count, f"step {shown}")
    p.page.click("#newest")
    check("timeline: back to now", p.wait("document.getElementById('state').textContent === 'live'"))
    p.page.click("#fog")
    check("fog: shows hidden ground", p.page.get_attribute("#fog", "aria-pressed") == "true")
    p.page.click("#theme")
    p.page.click("#theme")
    check("theme: switched by hand", p.page.evaluate("document.documentElement.dataset.theme") == "dark" and "dark" in p.text("#theme"))
    order = []
    p.page.reload()
    p.wait("!document.getElementById('pause').disabled")
    for _ in range(12):
        p.page.keyboard.press("Tab")
        order.append(p.page.evaluate("document.activeElement.id || document.activeElement.className"))
    wanted = ["skip", "theme", "pause", "step", "speed", "drive", "fog", "scrub", "answer", "prompt"]
    at = [order.index(w) for w in wanted if w in order]
    check("focus order", len(at) == len(wanted) and at == sorted(at), " ".join(order))
    check("live region speaks", p.wait("/Step \\d+: /.test(document.getElementById('live').textContent)", 15), p.text("#live") or p.page.text_content("#live"))
    check("controls: no errors", not p.problems, "; ".join(p.problems[:3]))
    p.close()


def with_model(browser, exe, shots):
    with program([exe, "play", "--dashboard", "--no-record", "--episodes", "5", "--speed", "1"]) as (_, url):
        p = Page(browser, url)
        check("model: answer token by token, with confidence", p.wait("document.querySelectorAll('#answer .token').length >= 3 && document.querySelector('#answer .token[data-sure]')", 60))
        check("model: prompt as sent", p.wait("document.getElementById('prompt').textContent.includes('field')", 30))
        check("model: time split", p.page.evaluate("document.querySelectorAll('#split i').length") >= 2)
        check("model: caches and memory", p.page.is_visible("#caches") and "weights" in p.text("#memory-use"))
        p.page.fill("#note", "<b>go north</b>")
        p.page.press("#note", "Enter")
        check("note: goes with the prompt, as text", p.wait("document.querySelector('#prompt .added')?.textContent.includes('note <b>go north</b>')", 30))
        check("model: no errors", not p.problems, "; ".join(p.problems[:3]))
        if shots:
            p.page.screenshot(path=f"{shots}/model.png", full_page=True)
        p.close()


def wall(browser, exe, shots):
    with program([exe, "play", "--policy", "oracle", "--games", "6", "--episodes", "60", "--dashboard", "--no-record", "--speed", "1"]) as (_, url):
        p = Page(browser, url)
        check("wall: a tile for each game, all moving", p.wait("[...document.querySelectorAll('.tile canvas')].filter((c) => Number(c.dataset.frame) > 20).length === 6", 20))
        time.sleep(2)
        if shots:
            p.page.screenshot(path=f"{shots}/wall.png")
        p.page.click(".tile:nth-child(3)")
        check("wall: a tile opens its game", p.wait("Number(document.getElementById('screen').dataset.frame) > 0 && !document.getElementById('game').hidden"))
        p.page.click("#to-wall")
        check("wall: and back", p.wait("!document.getElementById('wall').hidden"))
        check("wall: no errors", not p.problems, "; ".join(p.problems[:3]))
        p.close()


def recorded(browser, exe, shots):
    with tempfile.TemporaryDirectory() as folder:
        script = os.path.join(folder, "<img src=x onerror=window.hacked=1>")
        open(script, "w").write("walk_north\nwalk_east\nwalk_south\nwalk_west\nnext\n")
        run = os.path.join(folder, "run")
        subprocess.run([exe, "play", "--mock-script", script, "--record", run, "--max-decisions", "60", "--no-dashboard"], stdout=subprocess.DEVNULL, check=True)
        with program([exe, "view", run]) as (_, url):
            p = Page(browser, url)
            check("view: hostile names stay text", "<img src=x" in p.text("#title") and p.page.evaluate("window.hacked === undefined && !document.querySelector('h1 img')"))
            check("view: all steps are there", p.wait("Number(document.getElementById('scrub').max) === 59"))
            p.page.focus("#scrub")
            for _ in range(30):
                p.page.keyboard.press("ArrowRight")
            check("view: arrow keys scrub", p.wait("/step 31$/.test(document.getElementById('decision-number').textContent)"), p.text("#decision-number"))
            check("view: the map of that step", p.wait("/B1F/.test(document.getElementById('where').textContent)"))
            p.page.click("#pause")
            check("view: plays on from there", p.wait("/step 3[3-9]$/.test(document.getElementById('decision-number').textContent)", 30))
            p.page.click("#pause")
            check("view: pauses", p.wait("document.getElementById('state').textContent === 'paused'"))
            now = number(p.text("#decision-number"))
            p.page.click("#step")
            check("view: steps", p.wait(f"/step {now + 1}$/.test(document.getElementById('decision-number').textContent)"))
            check("view: no take over, no note", not p.page.is_visible("#drive") and not p.page.is_visible("#note-form"))
            if shots:
                p.page.screenshot(path=f"{shots}/view.png", full_page=True)
            check("view: no errors", not p.problems, "; ".join(p.problems[:3]))
            p.close()
        subprocess.run([exe, "report", run, "--no-film"], stdout=subprocess.DEVNULL, check=True)
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        requests = []
        page.on("request", lambda r: requests.append(r.url))
        page.goto("file://" + run + "/report.html")
        check("report: works without scripts, asks for nothing", page.locator("svg").count() >= 3 and page.locator(".frames img").count() >= 2 and
              all(r.startswith(("file:", "data:")) for r in requests))
        check("report: hostile names stay text", "<img src=x" in page.inner_text("h1"))
        if shots:
            page.screenshot(path=f"{shots}/report.png", full_page=True)
        context.close()


def write_results(path, exe):
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    cpu = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
    good = sum(g for _, g, _ in checks)
    with open(path, "w") as f:
        f.write("# Dashboard in headless Chromium\n\n")
        f.write(f"{datetime.date.today()}, commit {commit}, {cpu}, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} while measuring), `tools/check_dashboard.py`.\n\n")
        f.write("| what | measured | wanted |\n| --- | --- | --- |\n")
        for name, value, limit in figures:
            f.write(f"| {name} | {value} | {limit} |\n")
        f.write(f"\n{good} of {len(checks)} checks passed.\n\n")
        for name, passed, detail in checks:
            f.write(f"- {'ok' if passed else '**failed**'}: {name}{' (' + detail.replace('|', '/') + ')' if detail and not passed else ''}\n")
        f.write("\nMethod: the program plays with the oracle at the console's speed, Chromium looks at one game. Pictures are counted by the frame number on the canvas;\n"
                "processor time is that of the whole process (emulator, agent, compression, server) from /proc; first paint is the browser's first-contentful-paint;\n"
                "page size is the sum of what was transferred, headers included, without /api.\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/pmd-agent")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--shots", help="folder for screenshots")
    parser.add_argument("--results", help="write the outcome as Markdown")
    o = parser.parse_args()
    if o.shots:
        os.makedirs(o.shots, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=o.chromium, args=["--no-sandbox"])
        with program([o.program, "play", "--policy", "oracle", "--dashboard", "--no-record", "--episodes", "200", "--speed", "1"]) as (process, url):
            weight(browser, url)
            rate_and_cost(browser, process, url)
            looks(browser, url, o.shots)
            controls(browser, url)
        with_model(browser, o.program, o.shots)
        wall(browser, o.program, o.shots)
        recorded(browser, o.program, o.shots)
        browser.close()
    failed = [c for c in checks if not c[1]]
    print(f"{len(checks) - len(failed)} of {len(checks)} checks passed")
    if o.results:
        write_results(o.results, o.program)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
