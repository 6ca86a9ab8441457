"""Which endpoint a method and a path belong to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.http.messages import JsonObject, JsonRequest
from lmatrix.http.routes import Found, Route, RouteTable, RouteTree, WrongMethod


async def _handler(_request: JsonRequest) -> JsonObject:
    return {}


def _tree(*routes: tuple[str, str], cors: bool = False) -> RouteTree:
    return RouteTree([RouteTable("test", [Route(m, p, _handler, f"{m} {p}") for m, p in routes], cors=cors)])


def _found(tree: RouteTree, method: str, path: str) -> tuple[str, dict[str, str]] | tuple[str, ...] | None:
    result = tree.find(method, path[1:].split("/"))
    if isinstance(result, Found):
        return result.endpoint.route.name, result.params
    return result.allowed if isinstance(result, WrongMethod) else None


class MatchingTests(SynchronousTestCase):
    """The I-D's "Unsupported Endpoints" and the slashes of "Requests and Responses"."""

    def test_parameters_take_their_segment(self) -> None:
        """Each parameter has the value of its own segment, slashes inside it included."""
        tree = _tree(("GET", "/state/{room}/{type}"))
        result = tree.find("GET", ["state", "!a/b:x", "m.room.name"])
        assert isinstance(result, Found)
        self.assertEqual(result.params, {"room": "!a/b:x", "type": "m.room.name"})

    def test_stray_slashes_make_a_path_unknown(self) -> None:
        """Neither a literal nor a parameter matches an empty segment."""
        tree = _tree(("GET", "/a/b"), ("GET", "/a/{x}"))
        for path in ("/a/b/", "//a/b", "/a//b", "/a/", "/", "//a/b/"):
            self.assertIsNone(_found(tree, "GET", path), path)

    def test_a_route_can_spell_its_trailing_slash(self) -> None:
        """The few endpoints that allow one name it, and only those have it."""
        tree = _tree(("PUT", "/state/{type}/"), ("PUT", "/other"))
        self.assertEqual(_found(tree, "PUT", "/state/t/"), ("PUT /state/{type}/", {"type": "t"}))
        self.assertIsNone(_found(tree, "PUT", "/other/"))

    def test_literals_win_over_parameters(self) -> None:
        """A literal segment is tried first, and given up when what follows it does not match."""
        tree = _tree(("POST", "/user/keys/claim"), ("GET", "/user/{user}/device"), ("GET", "/user/{user}/{what}"))
        self.assertEqual(_found(tree, "POST", "/user/keys/claim"), ("POST /user/keys/claim", {}))
        self.assertEqual(_found(tree, "GET", "/user/keys/device"), ("GET /user/{user}/device", {"user": "keys"}))
        self.assertEqual(
            _found(tree, "GET", "/user/keys/claim"), ("GET /user/{user}/{what}", {"user": "keys", "what": "claim"})
        )

    def test_a_wrong_method_is_told_apart(self) -> None:
        """A path that exists with other methods says which; HEAD is a method like any other."""
        tree = _tree(("GET", "/a"), ("PUT", "/a"), ("POST", "/{x}"))
        self.assertEqual(_found(tree, "DELETE", "/a"), ("GET", "POST", "PUT"))
        self.assertEqual(_found(tree, "HEAD", "/a"), ("GET", "POST", "PUT"))
        self.assertIsNone(_found(tree, "GET", "/a/b"))

    @given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4))
    def test_every_path_that_spells_a_route_finds_it(self, values: list[str]) -> None:
        """Whatever the parameters' values, they come back."""
        path = "/v" + "".join(f"/{{p{number}}}" for number in range(len(values)))
        result = _tree(("GET", path)).find("GET", ["v", *values])
        assert isinstance(result, Found)
        self.assertEqual(list(result.params.values()), values)


class BuildingTests(SynchronousTestCase):
    """Mistakes in a table are found when the tree is built."""

    def test_contradictions_are_refused(self) -> None:
        """Two routes with the same method and shape, malformed paths, and a parameter that comes twice."""
        for routes in (
            [("GET", "/a/{x}"), ("GET", "/a/{y}")],
            [("GET", "a")],
            [("get", "/a")],
            [("GET", "/a//b")],
            [("GET", "/{x}/{x}")],
        ):
            with self.assertRaises(ValueError, msg=str(routes)):
                _tree(*routes)
