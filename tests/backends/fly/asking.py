"""A plain client of the simulator, for tests of the simulator itself: it does what it is told, and nothing more."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.fly_simulator.simulator import Simulator
from tests.support.fly_simulator.state import Machine


class Asker:
    """Asks the simulator as any HTTP client may."""

    def __init__(self, fly: Simulator, app: str = "media") -> None:
        self._fly = fly
        self._app = app
        self.http = httpx.Client(
            base_url=fly.url,
            headers={"Authorization": f"Bearer {fly.environment['FLY_API_TOKEN']}"},
            timeout=30.0,
            trust_env=False,
            verify=False,  # plain HTTP; loading certificates takes longer than most tests
        )

    def close(self) -> None:
        self.http.close()

    def ask(self, method: str, path: str = "", **what: Any) -> httpx.Response:
        """Ask about the app; `path` follows the app's machines."""
        return self.http.request(method, f"/v1/apps/{self._app}/machines{path}", **what)

    def create(self, name: str = "runner-1", code: str | None = None, /, **config: Any) -> httpx.Response:
        """Ask for a machine that runs some Python, as a backend would."""
        what = {"image": self._fly.image, "auto_destroy": True, "restart": {"policy": "no"}}
        if code is not None:
            what["init"] = {"cmd": ["python", "-c", code]}
        return self.ask("POST", json={"name": name, "config": what | config})

    def created(self, name: str = "runner-1", code: str | None = None, /, **config: Any) -> Machine:
        """The same, for who takes for granted that it works."""
        response = self.create(name, code, **config)
        assert response.status_code == 200, response.text
        machine_id = response.json()["id"]
        return self._fly.until(lambda world: [m for m in world.booted if m.id == machine_id])[0]

    def get(self, machine: Machine, **query: Any) -> Any:
        """What the API says of it."""
        response = self.ask("GET", f"/{machine.id}", params=query)
        assert response.status_code == 200, response.text
        return response.json()

    def wait(self, machine: Machine, state: str, timeout: int = 30, **query: Any) -> httpx.Response:
        """Wait for a state."""
        return self.ask("GET", f"/{machine.id}/wait", params={"state": state, "timeout": timeout, **query})

    def destroy(self, machine: Machine, *, force: bool = True) -> httpx.Response:
        """Let it be destroyed."""
        return self.ask("DELETE", f"/{machine.id}", params={"force": "true"} if force else {})


ASLEEP = "import signal; signal.pause()"
"""What a machine runs that is to go on until somebody ends it."""
