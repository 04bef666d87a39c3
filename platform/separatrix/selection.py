"""Atoms chosen by MDTraj's selection language, such as ``protein and not element H`` or ``resid 2 and name CA``.

MDTraj turns a selection into Python and compiles it. Text is therefore let through only as words, numbers, quoted
strings, comparisons and parentheses, and what MDTraj made of it is checked, node by node, before it is used.
"""

from __future__ import annotations

import ast
import functools
import re
from typing import Any, Final, NoReturn

from separatrix.errors import ExpressionError, quoted
from separatrix.records import Atoms

MAX_LENGTH: Final = 1000
MAX_DEPTH: Final = 10
"""Parentheses within parentheses."""

_TOKEN: Final = re.compile(
    r"""\s*(?P<token>
        (?P<open>\() | (?P<close>\)) |
        [A-Za-z][A-Za-z0-9_]*(?!['"]) |          # keywords and names
        [0-9]+(?:\.[0-9]+)?(?![A-Za-z0-9_.]) |    # numbers; a name that begins with a digit must be quoted
        '[^'\\\r\n]*'(?!['"]) | "[^"\\\r\n]*"(?!['"]) |
        == | != | <= | >= | =~ | && | \|\| | [<>!]
    )\s*""",
    re.VERBOSE | re.ASCII,
)
_SPELLED: Final = {"<=": "le", ">=": "ge"}
"""MDTraj takes the first character of these alone."""

_FIELDS: Final = frozenset(
    {
        ("code", "residue"),
        ("index",),
        ("index", "chain", "residue"),
        ("index", "residue"),
        ("mass", "element"),
        ("n_bonds",),
        ("name",),
        ("name", "residue"),
        ("resSeq", "residue"),
        ("segment_id",),
        ("symbol", "element"),
    }
)
"""What a selection may compare, from the last attribute to the first."""

_FLAGS: Final = frozenset(
    {
        ("is_backbone",),
        ("is_nucleic", "residue"),
        ("is_protein", "residue"),
        ("is_sidechain",),
        ("is_water", "residue"),
    }
)
"""What is true or false of an atom."""

_EXAMPLE: Final = "expected MDTraj's selection language, such as protein and not element H, or resid 2 and name CA"
_MOST_RESIDUES_SHOWN: Final = 4


def select(atoms: Atoms, text: str) -> tuple[int, ...]:
    """Return the indices of the selected atoms, ascending.

    Parameters
    ----------
    atoms : of the system
    text : in MDTraj's selection language: ``resid`` counts residues from 0, ``residue`` is their number in the PDB file

    Raises
    ------
    ExpressionError
        If the text is no selection, or selects no atom.

    References
    ----------
    MDTraj's documentation, "Atom Selection Reference".
    """
    line = " ".join(text.split())
    words = _checked_tokens(line)
    import mdtraj.core.selection  # noqa: PLC0415 - a third of a second, which runs without selections need not wait

    try:
        parsed = mdtraj.core.selection.parse_selection(" ".join(words))
        _check_condition(line, parsed.astnode)
        chosen = tuple(atom.index for atom in _topology(atoms).atoms if parsed.expr(atom))
    except ExpressionError:
        raise
    except Exception as error:  # noqa: BLE001 - MDTraj's parser raises whatever it runs into
        _fail(line, f"cannot be read ({_reason(error)}); {_EXAMPLE}")
    if not chosen:
        _fail(line, f"selects no atom; {_overview(atoms)}")
    return chosen


def _checked_tokens(line: str) -> list[str]:
    if len(line) > MAX_LENGTH:
        raise ExpressionError(f"selection: too long, {len(line)} characters; at most {MAX_LENGTH} are allowed")
    if not line:
        _fail(line, f"is empty; {_EXAMPLE}")
    words: list[str] = []
    position, depth = 0, 0
    while position < len(line):
        token = _TOKEN.match(line, position)
        if token is None:
            _fail(line, f"{line[position : position + 12]!r} is not allowed; put names of other characters in quotes")
        depth += (token["open"] is not None) - (token["close"] is not None)
        if depth > MAX_DEPTH:
            _fail(line, f"nested too deeply; at most {MAX_DEPTH} levels are allowed")
        words.append(_SPELLED.get(token["token"], token["token"]))
        position = token.end()
    return words


def _check_condition(line: str, node: ast.AST) -> None:
    """Refuse anything but comparisons of known fields with literals, flags such as protein, and their combinations."""
    match node:
        case ast.BoolOp(values=parts):
            for part in parts:
                _check_condition(line, part)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            _check_condition(line, operand)
        case ast.Compare(left=left, comparators=others):
            for part in (left, *others):
                _check_value(line, part)
        case ast.Constant(value=bool()):
            pass
        case ast.Attribute() if _attributes(node) in _FLAGS:
            pass
        case _:
            _fail(line, f"{quoted(ast.unparse(node))} is no condition; {_EXAMPLE}")


def _check_value(line: str, node: ast.AST) -> None:
    match node:
        case ast.List(elts=parts) | ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr="match"), args=parts):
            for part in parts:
                _check_value(line, part)
        case ast.Constant(value="to"):
            _fail(line, "expected two numbers about 'to', such as index 3 to 7")
        case ast.Constant(value=str() | int() | float() | None):
            pass
        case ast.Attribute() if _attributes(node) in _FIELDS:
            pass
        case _:
            _fail(line, f"{quoted(ast.unparse(node))} is not allowed; put names in quotes")


def _attributes(node: ast.expr) -> tuple[str, ...]:
    """Return the attributes looked up on an atom, the last one first; nothing if it is anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return tuple(names) if isinstance(node, ast.Name) and node.id == "atom" else ()


@functools.lru_cache(maxsize=2)
def _topology(atoms: Atoms) -> Any:
    """Return the atoms as MDTraj holds them."""
    import mdtraj  # noqa: PLC0415

    topology, chain, residue = mdtraj.Topology(), None, None
    for index in range(atoms.n_atoms):
        if index == 0 or atoms.chains[index] != atoms.chains[index - 1]:
            chain = topology.add_chain()
        if index == 0 or atoms.residues[index] != atoms.residues[index - 1]:
            residue = topology.add_residue(atoms.residue_names[index], chain, resSeq=atoms.residue_numbers[index])
        try:
            element = mdtraj.element.get_by_symbol(atoms.elements[index] or "VS")
        except KeyError:
            element = mdtraj.element.virtual
        topology.add_atom(atoms.atom_names[index], element, residue)
    members = list(topology.atoms)
    for first, second in atoms.bonds:
        topology.add_bond(members[first], members[second])
    return topology


def _overview(atoms: Atoms) -> str:
    """Return in words which residues there are: most empty selections count them from the wrong number."""
    first = [i for i in range(atoms.n_atoms) if i == 0 or atoms.residues[i] != atoms.residues[i - 1]]
    shown = [f"{atoms.residue_names[i]}{atoms.residue_numbers[i]}" for i in first[:_MOST_RESIDUES_SHOWN]]
    dots = ", ..." if len(first) > len(shown) else ""
    return (
        f"the system has {atoms.n_atoms} atoms in the residues {', '.join(shown)}{dots}; resid counts them from 0 to "
        f"{len(first) - 1}, residue means the number in the PDB file"
    )


def _reason(error: Exception) -> str:
    """Return what MDTraj choked on; pyparsing says it after a list of everything it would have taken."""
    text = str(error).strip()
    found = re.search(r"found (.+?)  \(at char", text)
    return (f"unexpected {found[1]}" if found else (text.splitlines() or [type(error).__name__])[0])[:100]


def _fail(line: str, problem: str) -> NoReturn:
    raise ExpressionError(f"selection {quoted(line, 80)}: {problem}")
