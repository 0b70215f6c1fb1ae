"""Object classes of the generated scenes: the eight that live."""

from __future__ import annotations

from typing import Final

from anyshot.data.scene_shapes import (
    ANY,
    COOL,
    Material,
    ObjectClass,
    box,
    ellipse,
    line,
    polygon,
    spiral,
    star,
)

LIVING: Final = (
    ObjectClass(
        "fish",
        (
            polygon("fin", (-0.55, 0), (-1.0, -0.45), (-0.88, 0), (-1.0, 0.45), smooth=1),
            polygon("fin", (-0.3, -0.35), (0.05, -0.75), (0.35, -0.35), smooth=1),
            polygon("fin", (-0.15, 0.35), (0.0, 0.68), (0.25, 0.35), smooth=1),
            polygon(
                "body",
                (-0.75, 0),
                (-0.2, -0.48),
                (0.45, -0.48),
                (0.95, 0),
                (0.45, 0.48),
                (-0.2, 0.48),
                smooth=3,
            ),
            polygon(
                "head", (0.42, -0.36), (0.62, -0.3), (0.9, 0), (0.62, 0.3), (0.42, 0.36), (0.3, 0), smooth=2
            ),
            ellipse("white", 0.55, -0.1, 0.13, 0.13),
            ellipse("dark", 0.58, -0.1, 0.07, 0.07),
        ),
        {
            "body": Material((*COOL, 0.05), 0.6, 0.8, "scales", 7.0, 0.5),
            "fin": Material((0.03, 0.1, 0.9), 0.75, 0.85, "ribs", 14.0, 0.75),
            "head": Material((0.07,), 0.85, 0.95),
        },
    ),
    ObjectClass(
        "cactus",
        (
            line("body", 0.3, (-0.1, 0.3), (-0.62, 0.2), (-0.62, -0.25), smooth=2),
            line("body", 0.28, (0.1, 0.1), (0.6, 0.0), (0.6, -0.5), smooth=2),
            line("body", 0.5, (0, 0.5), (0, -0.62), smooth=0),
            polygon("pot", (-0.5, 0.5), (0.5, 0.5), (0.38, 1.0), (-0.38, 1.0)),
            box("rim", -0.56, 0.4, 0.56, 0.58),
            star("flower", 0, -0.88, 0.28, 0.13, 7),
            ellipse("gold", 0, -0.88, 0.09, 0.09),
            star("flower", 0.6, -0.64, 0.17, 0.08, 7),
        ),
        {
            "body": Material((0.3, 0.36, 0.42), 0.6, 0.55, "ribs", 11.0, 0.6),
            "pot": Material((0.04, 0.6, 0.1), 0.6, 0.7, "zigzag", 5.0, 0.75),
            "rim": Material((0.04,), 0.6, 0.6),
            "flower": Material((0.9,), 0.65, 0.98),
        },
    ),
    ObjectClass(
        "owl",
        (
            polygon("wing", (-0.55, -0.85), (-0.1, -0.6), (-0.5, -0.3)),
            polygon("wing", (0.55, -0.85), (0.1, -0.6), (0.5, -0.3)),
            ellipse("body", 0, 0.15, 0.6, 0.78),
            ellipse("wing", -0.52, 0.25, 0.2, 0.52, 10),
            ellipse("wing", 0.52, 0.25, 0.2, 0.52, -10),
            ellipse("white", -0.24, -0.32, 0.27, 0.27),
            ellipse("white", 0.24, -0.32, 0.27, 0.27),
            ellipse("iris", -0.22, -0.32, 0.18, 0.18),
            ellipse("iris", 0.22, -0.32, 0.18, 0.18),
            ellipse("dark", -0.21, -0.32, 0.1, 0.1),
            ellipse("dark", 0.21, -0.32, 0.1, 0.1),
            polygon("iris", (-0.1, -0.15), (0.1, -0.15), (0, 0.1)),
            line("iris", 0.1, (-0.25, 0.92), (-0.1, 0.92), smooth=0),
            line("iris", 0.1, (0.25, 0.92), (0.1, 0.92), smooth=0),
        ),
        {
            "body": Material((0.07, 0.1, 0.6, 0.75), 0.4, 0.7, "scales", 5.0, 0.55),
            "wing": Material((0.06, 0.65), 0.45, 0.4),
            "iris": Material((0.11,), 0.95, 0.98),
        },
    ),
    ObjectClass(
        "snail",
        (
            polygon(
                "body",
                (-0.95, 0.7),
                (-0.6, 0.4),
                (0.4, 0.45),
                (0.55, -0.1),
                (0.9, -0.1),
                (0.9, 0.7),
                smooth=2,
            ),
            line("body", 0.07, (0.68, 0.0), (0.6, -0.45), smooth=0),
            line("body", 0.07, (0.82, 0.0), (0.95, -0.42), smooth=0),
            ellipse("dark", 0.6, -0.47, 0.07, 0.07),
            ellipse("dark", 0.95, -0.44, 0.07, 0.07),
            ellipse("shell", -0.15, -0.05, 0.6, 0.58),
            spiral("coil", 0.1, -0.15, -0.05, 0.5, 2.3),
        ),
        {
            "body": Material((0.12, 0.2, 0.3, 0.9), 0.35, 0.75, "dots", 9.0, 0.85),
            "shell": Material((0.05, 0.08, 0.8), 0.6, 0.75),
            "coil": Material((0.03,), 0.7, 0.35),
        },
    ),
    ObjectClass(
        "mushroom",
        (
            polygon("body", (-0.22, -0.1), (0.22, -0.1), (0.34, 0.95), (-0.34, 0.95), smooth=1),
            ellipse("gill", 0, -0.08, 0.72, 0.15),
            polygon("cap", (-0.85, -0.05), (-0.7, -0.65), (0, -1.05), (0.7, -0.65), (0.85, -0.05), smooth=2),
            *(ellipse("white", x, y, r, 0.8 * r) for x, y, r in ((-0.35, -0.5, 0.15), (0.25, -0.62, 0.17))),
            *(ellipse("white", x, y, r, 0.8 * r) for x, y, r in ((0.05, -0.27, 0.12), (0.5, -0.28, 0.11))),
            ellipse("white", -0.55, -0.2, 0.09, 0.08),
        ),
        {
            "body": Material((0.1, 0.14, 0.6), 0.18, 0.9, "grain", 8.0, 0.8),
            "gill": Material((0.09,), 0.3, 0.7),
            "cap": Material((0.99, 0.02, 0.06), 0.85, 0.8),
        },
    ),
    ObjectClass(
        "turtle",
        (
            *(ellipse("skin", x, 0.5, 0.17, 0.26) for x in (-0.5, 0.42)),
            polygon("skin", (-0.7, 0.3), (-1.0, 0.45), (-0.65, 0.48)),
            ellipse("skin", 0.82, 0.02, 0.24, 0.2),
            line("skin", 0.22, (0.45, 0.3), (0.78, 0.08), smooth=0),
            polygon("body", (-0.8, 0.42), (-0.62, -0.3), (-0.1, -0.6), (0.42, -0.3), (0.62, 0.42), smooth=2),
            line("rim", 0.13, (-0.72, 0.36), (0.55, 0.36), smooth=0),
            ellipse("white", 0.86, -0.04, 0.08, 0.08),
            ellipse("dark", 0.88, -0.04, 0.045, 0.045),
        ),
        {
            "body": Material((0.08, 0.13, 0.45, 0.6), 0.55, 0.55, "plates", 6.0, 0.5),
            "skin": Material((0.26,), 0.65, 0.72, "dots", 10.0, 0.75),
            "rim": Material((0.13,), 0.6, 0.8),
        },
    ),
    ObjectClass(
        "crab",
        (
            *(
                line("limb", 0.1, (s * 0.4, 0.25), (s * 0.8, 0.3), (s * 0.92, 0.68), smooth=1)
                for s in (-1, 1)
            ),
            *(line("limb", 0.1, (s * 0.3, 0.4), (s * 0.58, 0.5), (s * 0.62, 0.8), smooth=1) for s in (-1, 1)),
            *(
                line("limb", 0.13, (s * 0.45, 0.1), (s * 0.85, -0.05), (s * 0.8, -0.35), smooth=1)
                for s in (-1, 1)
            ),
            *(
                polygon(
                    "claw",
                    (s * 0.62, -0.28),
                    (s * 0.6, -0.75),
                    (s * 0.78, -0.5),
                    (s * 0.98, -0.78),
                    (s * 1.0, -0.3),
                    smooth=1,
                )
                for s in (-1, 1)
            ),
            ellipse("body", 0, 0.22, 0.6, 0.4),
            *(line("limb", 0.07, (s * 0.18, 0.0), (s * 0.22, -0.35), smooth=0) for s in (-1, 1)),
            *(ellipse("white", s * 0.22, -0.4, 0.12, 0.12) for s in (-1, 1)),
            *(ellipse("dark", s * 0.2, -0.4, 0.06, 0.06) for s in (-1, 1)),
        ),
        {
            "body": Material((0.0, 0.04, 0.6, 0.8), 0.65, 0.75, "dots", 6.0, 0.75),
            "limb": Material((0.02, 0.06), 0.7, 0.65),
            "claw": Material((0.03,), 0.85, 0.9),
        },
    ),
    ObjectClass(
        "butterfly",
        (
            *(
                polygon(
                    "body",
                    (0, -0.1),
                    (s * 0.35, -0.75),
                    (s * 0.95, -0.8),
                    (s * 0.85, -0.1),
                    (0, 0.1),
                    smooth=2,
                )
                for s in (-1, 1)
            ),
            *(
                polygon(
                    "body", (0, 0.0), (s * 0.7, 0.1), (s * 0.75, 0.6), (s * 0.35, 0.8), (0, 0.25), smooth=2
                )
                for s in (-1, 1)
            ),
            *(ellipse("spot", s * 0.55, -0.45, 0.18, 0.18) for s in (-1, 1)),
            *(ellipse("dark", s * 0.55, -0.45, 0.09, 0.09) for s in (-1, 1)),
            *(ellipse("spot", s * 0.42, 0.42, 0.12, 0.12) for s in (-1, 1)),
            ellipse("dark", 0, 0.05, 0.085, 0.48),
            *(line("dark", 0.035, (0, -0.35), (s * 0.15, -0.7), (s * 0.28, -0.8)) for s in (-1, 1)),
        ),
        {
            "body": Material(ANY, 0.75, 0.85, "diagonals", 7.0, 0.65),
            "spot": Material((0.14,), 0.35, 1.0),
        },
        stands=False,
    ),
)
