"""One thread a party, and an end for all of them when one fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from splitfed.run.life import Outcome
from splitfed.transport.link import Link


class Crew:
    """Runs one thread a party; the first failure closes everybody's link."""

    def __init__(self) -> None:
        self._links: list[Link] = []
        self._guard = threading.Lock()
        self._failures: list[BaseException] = []

    def join(self, link: Link) -> None:
        with self._guard:
            self._links.append(link)
            failed = bool(self._failures)
        if failed:
            link.close()

    def run(self, jobs: Mapping[str, Callable[[], Outcome]]) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}

        def work(name: str, job: Callable[[], Outcome]) -> None:
            try:
                outcomes[name] = job()
            except BaseException as error:  # reported by the thread that waits
                with self._guard:
                    self._failures.append(error)
                    links = list(self._links)
                for link in links:
                    link.close()

        threads = [
            threading.Thread(target=work, args=item, name=f"party {item[0]}", daemon=True)
            for item in jobs.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failures:
            raise self._failures[0]
        return outcomes
