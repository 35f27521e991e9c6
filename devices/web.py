"""Phones by their browser: `edgekit bench --device web` serves a page on the local network that runs the bundles.

Whoever opens the address, most easily by its QR code, downloads the bundles, proves them by their golden vectors, and
answers the bench's questions; nothing is installed, signed or plugged in. docs/apps.md says what that proves.
"""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.console import note
from edgekit.devices import Address, Device, Errand, Visit
from edgekit.devices import _web_show as show
from edgekit.devices._web_messages import Wanted
from edgekit.devices._web_page import OFFER, TASK, Offer, as_json, offer, page_files, question_files
from edgekit.devices._web_room import RUNTIME, Room
from edgekit.devices._web_server import Server, parse_place
from edgekit.devices._web_site import Site
from edgekit.errors import EdgekitError
from edgekit.system.temporary import room as temporary_room

OPTIONS = {
    "phones": "so many are let in and waited for, 1 to 16; 1",
    "minutes": "so long they have, 1 to 1440; 30",
    "questions": "the first so many of the bench's are asked on each; 50, and 0 for all",
    "backend": "auto (the GPU where its answers are right, else WebAssembly) or wasm; auto",
    "cert": "PEM file of a certificate, for https; without it a browser gives WebAssembly one thread and no GPU",
    "key": "PEM file of its key, where that is not in the same file",
    "ort": "folder of onnxruntime-web, instead of looking for it",
}
ALONE = ("127.0.0.1", "::1", "localhost")
TICK_S = 0.2
FAREWELL_S = 3.0  # in which the pages hear, at their next sign of life, that the bench is over


def reach(address: Address) -> tuple[bool, str]:
    """Whether the page can be served, and where."""
    try:
        host, port = _place(address)
        _settings(address)
    except EdgekitError as error:
        return False, " ".join(str(error).split())
    alone = "; this machine alone can open it" if host in ALONE else ""
    return True, f"a page on {host}{f' port {port}' if port else ''} for phones in the same network{alone}"


@contextmanager
def connect(address: Address) -> Iterator[Host]:
    """What serves the page.

    Raises:
        EdgekitError: an option that is none, a port that cannot be had, or onnxruntime-web is missing.
    """
    yield Host(address)


class Host:
    """Serves the page; see `edgekit.devices.Guests`.

    Args:
        address: With its options.

    Raises:
        EdgekitError: as of `connect`.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._host, self._port = _place(address)
        self._settings = _settings(address)
        given = address.options
        self._page = page_files(Path(given["ort"]) if "ort" in given else None)
        self._certificate, self._key = (Path(given[name]) if name in given else None for name in ("cert", "key"))
        # Before anything is measured, which takes minutes, it is seen that the place can be had.
        Server(Site({}, {}, {}, bool), self._host, self._port, self._certificate, self._key).check()

    def describe(self) -> dict[str, Any]:
        """Where the page is, and for whom."""
        scheme = "https" if "cert" in self._address.options else "http"
        return {"page": f"{scheme}, {self._host}", **self._settings}

    def gather(self, errand: Errand, visits: list[Visit]) -> None:
        """Serve the bundles until all phones are through; see `edgekit.devices.Guests`.

        Raises:
            EdgekitError: it cannot listen any more, or a question cannot be read.
        """
        offers = self._offers(errand, visits)
        if not offers:
            return
        with temporary_room("web") as aside:
            count = self._settings["questions"] or None
            limit = count if errand.limit is None else min(errand.limit, count or errand.limit)
            questions, images = question_files(errand.data, limit, aside)
            wanted = Wanted(
                tuple(one.name for one in offers), tuple(one.vocabulary for one in offers), len(questions),
                errand.max_new_tokens,
            )  # fmt: skip
            came: list[Visit] = []
            guests = Room(wanted, self._settings["phones"], came)
            site = self._site(offers, questions, images, guests, errand)
            server = Server(site, self._host, self._port, self._certificate, self._key)
            server.start()
            try:
                self._serve(server, guests)
            finally:
                guests.end("the bench was ended")
                server.close()
                if not came:
                    came = [self._failed(place, "no phone came") for place in range(len(offers))]
                visits += [dataclasses.replace(one, bundle=offers[one.bundle].place) for one in came]

    def _offers(self, errand: Errand, visits: list[Visit]) -> list[Offer]:
        """Bundles that a page can run; a visit with the reason of each other one."""
        found = []
        for place, folder in enumerate(errand.bundles):
            try:
                found.append(offer(folder, place))
            except EdgekitError as error:
                visits.append(self._failed(place, " ".join(str(error).split())))
        return found

    def _failed(self, place: int, why: str) -> Visit:
        return Visit(place, str(self._address), {}, problem=why, runtime=RUNTIME)

    def _site(
        self, offers: list[Offer], questions: list[Any], images: dict[str, Path], guests: Room, errand: Errand
    ) -> Site:
        task = {
            "bundles": [dict(one.entry) for one in offers], "questions": questions, "warmup": errand.warmup,
            "maxNewTokens": errand.max_new_tokens, "threads": errand.threads, "backend": self._settings["backend"],
        }  # fmt: skip
        sizes = [{"name": one.name, "bytes": one.bytes} for one in offers]
        offered = {"bundles": sizes, "questions": len(questions), "phones": guests.phones}
        closed: dict[str, Path | bytes] = {TASK: as_json(task), **images}
        for one in offers:
            closed |= one.files
        actions = {
            "join": guests.join, "beat": guests.beat, "result": guests.result, "failed": guests.failed,
            "leave": guests.leave,
        }  # fmt: skip
        return Site({**self._page, OFFER: as_json(offered)}, closed, actions, guests.known)

    def _serve(self, server: Server, guests: Room) -> None:
        show.address(server.url)
        if server.scheme == "http" and self._host not in ALONE:
            note("Over http a browser gives WebAssembly one thread, and no GPU; the option cert makes it https.")
        try:
            self._wait(guests)
        finally:
            if server.refused:
                told = ", ".join(f"{count} x {why}" for why, count in server.refused.most_common(6))
                note(f"Requests that were refused: {told}.")

    def _wait(self, guests: Room) -> None:
        """Until all are through, or the time is."""
        until = time.monotonic() + 60 * self._settings["minutes"]
        with show.shown() as screen:
            while not guests.over() and time.monotonic() < until:
                guests.tick()
                screen.show(guests)
                time.sleep(TICK_S)
            if not guests.over():
                guests.end(f"the {self._settings['minutes']} minutes of the bench were over")
                time.sleep(FAREWELL_S if guests.guests else 0.0)
            screen.show(guests)


def _place(address: Address) -> tuple[str, int]:
    """Host and port; the address of this machine in its network where none is named."""
    host, port = parse_place(address.place)
    if host in ("0.0.0.0", "::"):
        raise EdgekitError(
            f"{host} is every address of this machine.",
            why="A browser's requests are held to one address, so that no other page can send any.",
            fix="Name the one that the phones can reach:  --device web://ADDRESS:PORT",
        )
    return host or own_address(), port


def own_address() -> str:
    """Of this machine in its network; 127.0.0.1 where it has none. Nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.connect(("192.0.2.1", 9))  # an address for documentation: which way would it go?
            return str(one.getsockname()[0])
    except OSError:
        return "127.0.0.1"


def _settings(address: Address) -> dict[str, Any]:
    given = address.options
    backend = given.get("backend", "auto")
    if backend not in ("auto", "wasm"):
        raise EdgekitError(f"{backend!r} is no back-end of a page.", fix="There are: auto, wasm.")
    if "key" in given and "cert" not in given:
        raise EdgekitError("A key without a certificate is of no use.", fix="Give both:  --device 'web?cert=A&key=B'")
    return {
        "phones": _whole(given, "phones", 1, 1, 16), "minutes": _whole(given, "minutes", 30, 1, 1440),
        "questions": _whole(given, "questions", 50, 0, 100_000), "backend": backend,
    }  # fmt: skip


def _whole(given: Any, name: str, usual: int, low: int, high: int) -> int:
    text = given.get(name)
    if text is None:
        return usual
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not low <= int(text) <= high:
        raise EdgekitError(f"{name} is {text!r}; it is a whole number from {low} to {high}.")
    return int(text)


DEVICE = Device(reach, guests=connect, options=OPTIONS)
