"""The type checker that the tests put on every function of alphabar: beartype, with int accepted where float is said."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
