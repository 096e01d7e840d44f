"""Imports common libraries and fills sympy's caches, so that no session pays for it.

A first `simplify` or `integrate` costs several times a second one. The work is split into items: the first few are done
before the sandbox is ready, the rest while the zygote is idle.
"""

from __future__ import annotations

import importlib
import re

ESSENTIAL_MODULES = (
    *("numpy", "scipy", "sympy", "mpmath", "math", "fractions", "decimal", "itertools", "functools", "collections"),
    *("statistics", "re", "random", "cmath", "string", "operator", "datetime", "copy"),
)
LATER_MODULES = ("numpy.linalg", "heapq", "bisect", "typing", "dataclasses", "textwrap")
SCIENTIFIC_MODULES = ("scipy.linalg", "scipy.special", "scipy.optimize", "scipy.integrate")
"""They have a hundred shared libraries, which double the cost of every clone and its end."""
_SCIENTIFIC = re.compile(r"\b(?:scipy|lambdify)\b")

_SYMBOLS = "from sympy import *\nx, y, z, t = symbols('x y z t')\nn, k = symbols('n k', integer=True, positive=True)\n"
ESSENTIAL = (
    "str(expand((x + 2)*(x - 3)))",
    "simplify((x**2 - 1)/(x - 1))",
    "solve(x**2 - 5*x + 6, x)",
    "solve([x + y - 3, x - y - 1], [x, y])",
    "factor(x**3 - 6*x**2 + 11*x - 6)",
    "simplify(sin(x)**2 + cos(x)**2)",
    "Matrix([[1, 2], [3, 4]]).det(), Matrix([[2, 1], [1, 3]]).inv(), Matrix([[1, 2], [2, 4]]).rank()",
    "factorint(360), isprime(97), totient(36), divisors(28), gcd(12, 18), lcm(4, 6)",
    "N(sqrt(2) + pi, 20), Rational(3, 7) + Rational(1, 2), latex(x**2/2)",
    "diff(x**3*sin(x), x)",
    "integrate(x*exp(x), x)",
    "limit(sin(x)/x, x, 0)",
)
LATER = (
    "solve(x**3 - 2*x + 1, x)",
    "solve(sqrt(x + 3) - x + 3, x), solve(abs(x - 2) - 3, x)",
    "solve(2**x - 8, x), solve(log(x) - 2, x), solve(sin(x) - Rational(1, 2), x)",
    "solveset(x**2 - 4 > 0, x, S.Reals), reduce_inequalities([x > 1, x < 3], x)",
    "integrate(x**2*sin(x), x), integrate(1/(x**2 + 1), x), integrate(exp(-x**2), (x, -oo, oo))",
    "integrate(1/(x*(x + 1)), (x, 1, 2)), integrate(log(x)*x, x)",
    "diff(log(x**2 + 1)*exp(-x), x, 2), diff(atan(x)/x, x)",
    "limit((1 + 1/x)**x, x, oo), limit((exp(x) - 1 - x)/x**2, x, 0)",
    "series(exp(x)*cos(x), x, 0, 6)",
    "summation(k**2, (k, 1, n)), summation(1/2**k, (k, 0, oo)), product(k, (k, 1, 5))",
    "simplify(tan(x)*cos(x) - sin(x)), trigsimp(2*sin(x)*cos(x)), expand_trig(sin(2*x))",
    "apart((3*x + 5)/(x**2 - 1), x), together(1/x + 1/y), cancel((x**2 - y**2)/(x - y)), radsimp(1/(sqrt(3) - 1))",
    "Matrix([[2, 0, 1], [1, 3, 1], [0, 1, 4]]).eigenvals(), Matrix([[1, 2], [3, 4]]).eigenvects()",
    "Matrix([[1, 2, 3], [4, 5, 6]]).rref(), Matrix([[1, 2], [3, 4]])**5, Matrix(3, 3, range(9)).nullspace()",
    "Poly(x**4 - 1, x).all_roots(), roots(x**3 - 1, x), nroots(x**5 - x - 1), div(x**3 - 1, x - 1, x)",
    "binomial(10, 3), factorial(12), nsimplify(0.3333333333333333), nextprime(100), mod_inverse(3, 7)",
    "Eq(x + 1, 2), solve(Eq(x*y, 6).subs(y, 2), x), sympify('x**2 + 3*x'), (x + y).evalf(subs={x: 1, y: 2})",
    "dsolve(Function('f')(x).diff(x) - Function('f')(x), Function('f')(x))",
    "Point(0, 0).distance(Point(3, 4)), Triangle(Point(0, 0), Point(4, 0), Point(0, 3)).area",
    "Piecewise((x, x > 0), (-x, True)).subs(x, -2), floor(Rational(7, 2)), Interval(0, 1).contains(Rational(1, 2))",
    "pretty(x**2/3), simplify(log(x*y) - log(x)), powsimp(x**2*x**3)",
)
SCIENTIFIC = ("lambdify(x, x**2 + sin(x))(1.5)",)


def steps() -> list[tuple[str, bool]]:
    """The items in order, each with whether the sandbox waits for it: `import NAME`, or an expression."""
    return [
        *((f"import {name}", True) for name in ESSENTIAL_MODULES),
        *((expression, True) for expression in ESSENTIAL),
        *((f"import {name}", False) for name in LATER_MODULES),
        *((expression, False) for expression in LATER),
    ]


def scientific_steps() -> list[tuple[str, bool]]:
    """Additional items for sessions that use SciPy; most do not."""
    return [(f"import {name}", False) for name in SCIENTIFIC_MODULES] + [(item, False) for item in SCIENTIFIC]


def scientific(code: str) -> bool:
    """Whether a snippet seems to use SciPy, directly or through sympy. A wrong guess only costs time."""
    return _SCIENTIFIC.search(code) is not None


def perform(item: str, namespace: dict[str, object]) -> None:
    """Runs one item. Only a failed import of a promised library is an error."""
    if item.startswith("import "):
        name = item.removeprefix("import ")
        try:
            importlib.import_module(name)
        except ImportError:
            if name in ESSENTIAL_MODULES:
                raise
        return
    if not namespace:
        exec(_SYMBOLS, namespace)
    try:
        eval(item, namespace)
    except Exception:  # a sympy version that fails on one of these is still warm enough
        return
