"""Whoever works the target from the inside: its users, through its Client-Server API.

Owns: :class:`Operator`. The I-D has no such API; what is used here is Matrix's. Without it a target's rooms can only be
entered, and not made or changed, and its users do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.conformance.verdicts import NotTested
from tests.end_to_end.client_user import PASSWORD, ClientUser
from tests.end_to_end.raw_http import RawHttp


class Operator:
    """The target's users.

    Args:
        client_url: of the target's client listener.
        http: carries requests.
        logins: ``(name, password)`` of existing accounts; without any, accounts are made.
        prefix: of the names of accounts that are made.
    """

    def __init__(self, client_url: str, http: RawHttp, logins: Sequence[tuple[str, str]], prefix: str) -> None:
        self._client_url, self._http = client_url, http
        self._logins, self._prefix = list(logins), prefix
        self._users: list[ClientUser] = []

    def password_of(self, user: ClientUser) -> str:
        """The password of one of them."""
        place = self._users.index(user)
        return self._logins[place][1] if self._logins else PASSWORD

    async def user(self, number: int = 0) -> ClientUser:
        """The target's first user, or its second, …, logged in.

        Raises:
            NotTested: there are not so many.
            Refused: the target does not let us log in or register.
        """
        while len(self._users) <= number:
            user = ClientUser(self._client_url, self._http)
            index = len(self._users)
            if not self._logins:
                await user.register(f"{self._prefix}{index}")
            elif index < len(self._logins):
                name, password = self._logins[index]
                content = {
                    "type": "m.login.password",
                    "identifier": {"type": "m.id.user", "user": name},
                    "password": password,
                }
                answer = await user.call("POST", "/login", content)
                user.user_id, user.token = answer["user_id"], answer["access_token"]
            else:
                raise NotTested(f"it needs {number + 1} users of the target; --user names {len(self._logins)}")
            self._users.append(user)
        return self._users[number]
