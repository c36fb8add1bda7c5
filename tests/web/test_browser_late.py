"""The page in a real browser: answers that come late, out of order, elsewhere, or not at all."""

from __future__ import annotations

from selenium.webdriver import ActionChains

from puavo_repository.web.app import COOKIES
from support.browser import Browser
from web import samples
from web.mirrors import make_mirror
from web.site import Site

# What is asked for goes out when it is let go.
HELD = """
    const real = window.fetch;
    window.fetch = async (url, more) => {
        if (more?.method === "POST") await new Promise((resolve) => { window.letGo = resolve; });
        return real(url, more);
    };
"""
HEADLINES = """
    window.headlines = [];
    const right = document.querySelector("#right");
    new MutationObserver(() => headlines.push(right.querySelector(".headline").textContent))
        .observe(right, { childList: true, characterData: true, subtree: true });
"""


def wait(chromium: Browser, seconds: float) -> None:
    """Let the page ask a few times."""
    chromium.driver.execute_async_script(f"setTimeout(arguments[0], {1000 * seconds})")


def test_what_the_mouse_held_up_is_not_shown_over_what_came_later(
    chromium: Browser, site: Site
) -> None:
    site.show(samples.good(site.root))
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("Everything is up to date")
        chromium.driver.execute_script(HEADLINES)
        ActionChains(chromium.driver).click_and_hold(chromium.find("h1")).perform()
        for text in ("first", "second"):  # the first after some seconds
            site.show(samples.good(site.root, status=text))
            chromium.find("#right", text)
        ActionChains(chromium.driver).release().perform()
        wait(chromium, 1)
        assert chromium.driver.execute_script("return headlines") == ["first", "second"]


def test_a_button_whose_answer_came_late_is_as_the_page_says(chromium: Browser, site: Site) -> None:
    site.show(samples.good(site.root))
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("Everything is up to date")
        chromium.driver.execute_script(HELD)
        chromium.find("#prepare", "Prepare now").click()
        site.show(samples.busy(site.root))
        chromium.find("#night", "Preparing now")
        chromium.driver.execute_script("letGo()")
        chromium.find(".answer", "Started.")
        chromium.find("#prepare[aria-disabled]", "Preparing…")


def test_an_answer_is_told_where_the_button_is_gone_meanwhile(
    chromium: Browser, site: Site
) -> None:
    site.show(samples.bad(site.root))
    with site.up():
        chromium.driver.get(site.url)
        chromium.find("#problems")
        chromium.driver.execute_script(HELD)
        chromium.find("#problems button", "Retry").click()
        problems = [one.model_copy(update={"retry": None}) for one in samples.PROBLEMS]
        site.show(samples.good(site.root, ok=False, status="again", problems=problems))
        chromium.find("#right", "again")
        chromium.driver.execute_script("letGo()")
        chromium.find("#problems .answer", "It is tried again")


def test_a_login_that_answers_instead_has_started_nothing(chromium: Browser, site: Site) -> None:
    site.show(samples.good(site.root))
    site.login = "/puavo-repository/"
    with site.up():
        chromium.driver.get(site.url)
        chromium.find("#prepare").click()
        assert "logged out" in chromium.find(".answer").text


def test_a_language_that_was_chosen_in_another_tab_is_that_of_all_of_the_page(
    chromium: Browser, site: Site
) -> None:
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("Everything is up to date")
        try:
            chromium.driver.add_cookie({"name": COOKIES[0], "value": "de"})
            chromium.wait("Alles ist aktuell")
            chromium.find("html[lang=de] footer", "Sprache")
        finally:
            chromium.driver.delete_all_cookies()


def test_who_goes_back_from_a_rollback_is_not_led_forward_again(
    chromium: Browser, site: Site
) -> None:
    site.remotes = ("www",)
    with site.up():
        chromium.driver.get(site.url)
        chromium.find("a", "Roll back…").click()
        chromium.find("#looking")
        chromium.driver.back()
        chromium.find("#mirrors")
        wait(chromium, 1)
        assert chromium.driver.current_url == site.url
    assert len(site.asked) == 1


def test_the_first_images_come_with_the_tools_to_find_them(chromium: Browser, site: Site) -> None:
    site.show(samples.nothing(site.root))
    with site.up():
        chromium.driver.get(site.url)
        chromium.find("#series", "offers no image yet")
        wait(chromium, 1)
        site.show(samples.good(site.root))
        chromium.find("details.series")
        chromium.find("#search")


def test_images_that_could_not_be_loaded_are_asked_for_again(chromium: Browser, site: Site) -> None:
    make_mirror(site.root, series=4)
    site.show(samples.good(site.root))
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("Everything is up to date")
        chromium.driver.execute_script("""
            const real = window.fetch;
            window.fetch = (url, more) => String(url).includes("series/") && !window.back
                ? Promise.reject(new TypeError()) : real(url, more);
        """)
        chromium.find("details.series summary").click()
        chromium.find(".part", "All images and rdiffs of")
        chromium.driver.execute_script("window.back = true")
        chromium.find(".part table")


def test_the_images_of_a_series_are_those_of_the_last_question(
    chromium: Browser, site: Site
) -> None:
    """The answer to the first comes last."""
    make_mirror(site.root, series=4)
    site.show(samples.good(site.root))
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("Everything is up to date")
        wait(chromium, 1)
        chromium.driver.execute_script("""
            const real = window.fetch;
            window.fetch = async (url, more) => {
                const answer = await real(url, more);
                if (String(url).includes("series/") && !window.letGo)
                    await new Promise((resolve) => { window.letGo = resolve; });
                return answer;
            };
        """)
        chromium.find("details.series summary").click()
        chromium.until(lambda: chromium.driver.execute_script("return !!window.letGo"))
        min(site.root.glob("*.img")).unlink()
        site.show(samples.good(site.root, status="changed"))
        chromium.find(".part .chip", "missing")
        chromium.driver.execute_script("letGo()")
        wait(chromium, 1)
        chromium.find(".part .chip", "missing")


def test_a_day_ago_is_not_yesterday(chromium: Browser, site: Site) -> None:
    """At one in the morning, what was 26 hours ago was the day before yesterday."""
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("Everything is up to date")
        said = chromium.driver.execute_script(
            "return [0, 20, 26, 50, -26].map((hours) => ago(Date.now() - hours * 3600000 - 100))"
        )
    assert said == ["now", "20 hours ago", "1 day ago", "2 days ago", "in 1 day"]
