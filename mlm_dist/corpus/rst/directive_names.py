"""Names of directives by what a reader sees of them. Others show their argument and their content."""

from __future__ import annotations

ADMONITIONS = {
    name: f"{name.capitalize()}:"
    for name in ("attention", "caution", "danger", "error", "hint", "important", "note", "tip", "todo", "warning")
} | {"seealso": "See also:", "impl-detail": "CPython implementation detail:"}
"""{directive: heading} of those without an argument."""

CHANGES = {
    "deprecated": ("Deprecated since version {}", 1),
    "deprecated-removed": ("Deprecated since version {}, removed in version {}", 2),
    "soft-deprecated": ("Soft deprecated since version {}", 1),
    "versionadded": ("Added in version {}", 1),
    "versionchanged": ("Changed in version {}", 1),
    "versionremoved": ("Removed in version {}", 1),
}
"""{directive: (what Sphinx shows, number of versions)}."""

_CODE_NAMES = (
    "actdiag altair-plot aafig autosummary blockdiag bokeh-plot code-block code-cell command-output digraph exec "
    "graphviz highlight-code http:example ipython ipython3 jupyter-execute mermaid nwdiag packetdiag plantuml "
    "plot program-output rackdiag runpython seqdiag sourcecode testcleanup testcode testoutput testsetup tikz uml"
)
CODE = frozenset(_CODE_NAMES.split())
"""Those whose content is code and whose argument is its language."""

_HIDDEN_NAMES = "contents footbibliography iframe index meta plot-gallery toctree vimeo youtube"
HIDDEN = frozenset(_HIDDEN_NAMES.split())
"""Those of which a reader sees at most a caption."""

_OBJECTS_NAMES = (
    "attribute class classmethod cmdoption coroutinefunction coroutinemethod confval data decorator "
    "decoratormethod describe envvar exception function macro member method object opcode option pdbcommand "
    "property staticmethod type var"
)
OBJECTS = frozenset(_OBJECTS_NAMES.split())
"""Those whose argument is one signature on each line."""

_UNTITLED_NAMES = (
    "button-link button-ref centering codeauthor compound container cssclass currentlibrary currentmodule "
    "default-domain div epigraph footer grid grid-item header highlight highlightlang highlights hlist ifconfig "
    "line-block module moduleauthor namespace namespace-pop namespace-push only program pull-quote rst-class "
    "section-numbering sectionauthor sectnum tab-set tabs tabularcolumns target-notes"
)
UNTITLED = frozenset(_UNTITLED_NAMES.split())
"""Those whose argument is not shown."""
