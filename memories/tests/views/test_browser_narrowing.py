"""What a page looks like whose address asks for what it does not understand."""

import pytest

from mem0dash.tests.browser import Site

pytestmark = [pytest.mark.browser, pytest.mark.long]


@pytest.mark.parametrize(
    ("path", "name", "status"),
    [
        ("/dashboard/memories?agent=odd", "memories-not-understood", 400),
        ("/dashboard/activity?user=odd", "activity-not-understood", 422),
        ("/dashboard/requests?user=odd", "requests-not-understood", 422),
    ],
)
def test_a_filter_that_is_not_understood_is_told_on_every_screen(
    site: Site, path: str, name: str, status: int
) -> None:
    site.check_page(path, name, status=status)


def test_the_way_out_leads_to_the_list_without_the_filter(site: Site) -> None:
    visit = site.visit(storage_state=site.signed_in())
    visit.go("/dashboard/memories?agent=odd")
    visit.page.get_by_role("link", name="Clear filters").click()
    visit.page.wait_for_url("**/dashboard/memories")
    visit.context.close()
