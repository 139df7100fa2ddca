"""Which version answers. Pure: frozen values, a choice from a key, rules. No clock, no chance: a draw is a number that is passed in.

route.py        Route, RouteTable and what they are made of; `choose` for a version that the caller names
parts.py        POINTS, the table from points to versions, `point_of` a key
match.py        Conditions: rules, ready to be held against headers and parameters
words.py        a route's traffic in words
"""

from serving.routing.match import Conditions, bad_pattern, key_bytes
from serving.routing.parts import GOLDEN, POINTS, keyed_parts, parts_in_turn, point_of
from serving.routing.route import PLAIN, Route, RouteTable, Rule, Shadow, Share, Sticky, Traffic, Where, choose
from serving.routing.words import part_words, traffic_words

__all__ = [
    "GOLDEN",
    "PLAIN",
    "POINTS",
    "Conditions",
    "Route",
    "RouteTable",
    "Rule",
    "Shadow",
    "Share",
    "Sticky",
    "Traffic",
    "Where",
    "bad_pattern",
    "choose",
    "key_bytes",
    "keyed_parts",
    "part_words",
    "parts_in_turn",
    "point_of",
    "traffic_words",
]
