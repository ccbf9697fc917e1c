"""The packaged rules on dialogues: how they run, who speaks in them, and what their turns say.

`@rule` and `@turn_rule` add one. The function's name is the rule's name in `export.exclude` and in
the column `warnings`; the argument is what the documentation and the report say of it.
"""

from sdsd.checks.rules import course, speakers, wording  # noqa: F401  (they register, in this order)
from sdsd.checks.rules.registry import CHECKS, PREDICATES, RULES, Check

__all__ = ["CHECKS", "PREDICATES", "RULES", "Check"]
