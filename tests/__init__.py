"""The tests. The checker is imported here, since pytest looks it up as an attribute of this package."""

from tests import typecheck as typecheck
