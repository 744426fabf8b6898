"""Words that say nothing about what a text is about. In other languages than English, their importance tells."""

from __future__ import annotations

_ENGLISH = """
about above after again against all also although always among and another any are around because been before being
below between both but can cannot could did does doing done down during each either else even ever every few first
for from further get gets had has have having hence her here him his how however into its itself just last least
less let like made make makes many may maybe might more most much must neither never next nor not nothing now off
often once one only onto other others otherwise our out over own per perhaps rather said same second see several
she should since some something such take than that the their them themselves then there therefore these they
thing things this those though three through thus together too two under unless until upon use used uses using very
via was way well were what when where whether which while who whole whom whose why will with within without would
yes yet you your yourself
"""
STOP_WORDS = frozenset(_ENGLISH.split())
