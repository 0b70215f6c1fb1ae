"""Object classes of the generated scenes: the twelve that are made."""

from __future__ import annotations

from typing import Final

from anyshot.data.scene_shapes import (
    ANY,
    COOL,
    WARM,
    Material,
    ObjectClass,
    arc,
    box,
    ellipse,
    line,
    polygon,
    star,
)

MADE: Final = (
    ObjectClass(
        "mug",
        (
            arc("body", 0.17, 0.52, 0.05, 0.32, 0.36, -95, 95),
            polygon("body", (-0.62, -0.62), (0.55, -0.62), (0.48, 0.72), (-0.55, 0.72)),
            ellipse("body", -0.035, 0.72, 0.515, 0.12),
            ellipse("white", -0.035, -0.62, 0.585, 0.16),
            ellipse("coffee", -0.035, -0.6, 0.5, 0.11),
            star("emblem", -0.04, 0.1, 0.32, 0.14, 5),
        ),
        {
            "body": Material(ANY, 0.55, 0.8, "bands", 2.6, 0.8),
            "coffee": Material((0.06,), 0.7, 0.25),
            "emblem": Material((0.14,), 0.85, 0.98),
        },
    ),
    ObjectClass(
        "kite",
        (
            line("ribbon", 0.06, (0, 0.5), (0.2, 0.7), (-0.15, 0.85), (0.12, 1.05), (0.0, 1.25)),
            polygon("ribbon", (-0.2, 0.78), (0.05, 0.86), (-0.2, 0.96)),
            polygon("ribbon", (0.25, 0.97), (0.02, 1.06), (0.25, 1.17)),
            polygon("body", (0, -1), (0.68, -0.28), (0, 0.55), (-0.68, -0.28)),
            line("dark", 0.045, (0, -0.98), (0, 0.53), smooth=0),
            line("dark", 0.045, (-0.66, -0.28), (0.66, -0.28), smooth=0),
            ellipse("sun", 0, -0.28, 0.26, 0.26),
            star("face", 0, -0.28, 0.17, 0.07, 8),
        ),
        {
            "body": Material(ANY, 0.7, 0.88, "checks", 1.47, 0.72, 0.08),
            "ribbon": Material((0.92,), 0.6, 0.9),
            "sun": Material((0.15,), 0.8, 1.0),
            "face": Material((0.02,), 0.9, 0.85),
        },
        stands=False,
    ),
    ObjectClass(
        "lamp",
        (
            ellipse("body", 0, 0.88, 0.42, 0.11),
            line("body", 0.11, (0, 0.85), (0, -0.1), smooth=0),
            ellipse("body", 0, 0.45, 0.14, 0.2),
            polygon("shade", (-0.3, -0.95), (0.3, -0.95), (0.72, -0.05), (-0.72, -0.05)),
            ellipse("glow", 0, -0.05, 0.72, 0.12),
            line("gold", 0.04, (0.45, -0.03), (0.45, 0.28), smooth=0),
            ellipse("gold", 0.45, 0.3, 0.05, 0.05),
        ),
        {
            "body": Material((*COOL, 0.1), 0.35, 0.5, "rings", 6.0, 0.75),
            "shade": Material((0.1, 0.13, 0.04), 0.35, 0.99, "ribs", 9.0, 0.82),
            "glow": Material((0.15,), 0.3, 1.0),
        },
    ),
    ObjectClass(
        "boot",
        (
            polygon(
                "body",
                *((-0.5, -0.95), (0.2, -0.95), (0.2, 0.05), (0.8, 0.3), (0.95, 0.72), (-0.55, 0.72)),
                smooth=2,
            ),
            box("sole", -0.58, 0.66, 0.95, 0.86, smooth=1),
            box("sole", -0.58, 0.7, -0.15, 0.98),
            box("cuff", -0.55, -1.0, 0.25, -0.72, smooth=1),
            line("lace", 0.06, (0.0, -0.45), (0.28, -0.35), smooth=0),
            line("lace", 0.06, (0.0, -0.2), (0.3, -0.1), smooth=0),
            line("lace", 0.06, (0.05, 0.05), (0.4, 0.12), smooth=0),
            star("gold", -0.28, 0.25, 0.17, 0.1, 6),
        ),
        {
            "body": Material((*WARM, 0.6, 0.33), 0.6, 0.55, "knit", 7.0, 0.72),
            "sole": Material((0.08,), 0.3, 0.2),
            "cuff": Material((0.1,), 0.12, 0.92, "ribs", 16.0, 0.8),
            "lace": Material((0.14,), 0.2, 0.95),
        },
    ),
    ObjectClass(
        "teapot",
        (
            arc("body", 0.13, -0.6, 0.05, 0.36, 0.38, 80, 280),
            polygon(
                "body",
                (0.4, 0.35),
                (0.75, 0.1),
                (0.85, -0.4),
                (1.02, -0.42),
                (0.95, 0.2),
                (0.55, 0.55),
                smooth=1,
            ),
            ellipse("body", 0, 0.15, 0.66, 0.58),
            ellipse("foot", 0, 0.7, 0.38, 0.09),
            polygon("lid", (-0.42, -0.32), (-0.25, -0.52), (0.25, -0.52), (0.42, -0.32), smooth=2),
            ellipse("lid", 0, -0.6, 0.12, 0.12),
            *(
                ellipse("petal", 0.2 * x, 0.15 + 0.2 * y, 0.13, 0.13)
                for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))
            ),
            ellipse("gold", 0, 0.15, 0.1, 0.1),
        ),
        {
            "body": Material((*COOL, 0.0, 0.12), 0.3, 0.88, "dots", 5.0, 0.8),
            "foot": Material((0.1,), 0.5, 0.5),
            "lid": Material((0.95,), 0.65, 0.75),
            "petal": Material((0.95,), 0.65, 0.85),
        },
    ),
    ObjectClass(
        "guitar",
        (
            line("neck", 0.15, (0, 0.0), (0, -0.85), smooth=0),
            polygon("head", (-0.13, -0.8), (0.13, -0.8), (0.19, -1.15), (-0.19, -1.15)),
            ellipse("body", 0, 0.62, 0.55, 0.44),
            ellipse("body", 0, 0.12, 0.4, 0.34),
            ellipse("gold", 0, 0.28, 0.23, 0.23),
            ellipse("dark", 0, 0.28, 0.17, 0.17),
            box("dark", -0.22, 0.74, 0.22, 0.82),
            *(line("white", 0.02, (x, 0.78), (x, -0.85), smooth=0) for x in (-0.05, 0.0, 0.05)),
        ),
        {
            "body": Material((*WARM, 0.55), 0.7, 0.75, "grain", 5.0, 0.8),
            "neck": Material((0.06,), 0.6, 0.3),
            "head": Material((0.05,), 0.6, 0.25),
        },
    ),
    ObjectClass(
        "rocket",
        (
            polygon("flame", (-0.2, 0.65), (0.2, 0.65), (0.12, 0.9), (0.0, 1.15), (-0.12, 0.9), smooth=1),
            polygon("fin", (-0.3, 0.15), (-0.72, 0.75), (-0.25, 0.6)),
            polygon("fin", (0.3, 0.15), (0.72, 0.75), (0.25, 0.6)),
            polygon("body", (0, -1.25), (0.36, -0.5), (0.33, 0.68), (-0.33, 0.68), (-0.36, -0.5), smooth=2),
            polygon("fin", (0, -1.08), (0.21, -0.62), (-0.21, -0.62), smooth=1),
            ellipse("metal", 0, -0.25, 0.22, 0.22),
            ellipse("glass", 0, -0.25, 0.15, 0.15),
        ),
        {
            "body": Material((*COOL, 0.12), 0.16, 0.88, "plates", 5.0, 0.75),
            "fin": Material((0.0, 0.08, 0.6), 0.8, 0.75),
            "glass": Material((0.53,), 0.7, 0.95),
            "flame": Material((0.08,), 0.9, 1.0, "bands", 7.0, 0.8, -0.06),
        },
        stands=False,
    ),
    ObjectClass(
        "umbrella",
        (
            line("metal", 0.07, (0, -0.2), (0, 0.75), smooth=0),
            arc("handle", 0.1, 0.17, 0.75, 0.17, 0.2, 0, 180),
            line("metal", 0.06, (0, -0.75), (0, -0.95), smooth=0),
            polygon(
                "body",
                *((-0.98, 0.05), (-0.85, -0.45), (-0.45, -0.78), (0, -0.85), (0.45, -0.78), (0.85, -0.45)),
                *((0.98, 0.05), (0.65, -0.08), (0.33, 0.05), (0, -0.08), (-0.33, 0.05), (-0.65, -0.08)),
            ),
            polygon(
                "panel", (0, -0.84), (0.28, -0.5), (0.33, 0.04), (0, -0.08), (-0.33, 0.04), (-0.28, -0.5)
            ),
        ),
        {
            "body": Material(ANY, 0.7, 0.8, "ribs", 5.5, 0.75),
            "panel": Material((0.14,), 0.08, 0.98, "dots", 8.0, 0.6, 0.2),
            "handle": Material((0.06,), 0.7, 0.4),
        },
        stands=False,
    ),
    ObjectClass(
        "vase",
        (
            *(
                line("stem", 0.05, (0, -0.3), (x, y), smooth=0)
                for x, y in ((-0.38, -0.8), (0.4, -0.75), (0, -0.95))
            ),
            polygon(
                "tulip",
                (-0.55, -1.0),
                (-0.38, -0.85),
                (-0.22, -1.02),
                (-0.26, -0.65),
                (-0.5, -0.65),
                smooth=1,
            ),
            polygon("tulip", (0.22, -0.97), (0.4, -0.8), (0.58, -0.95), (0.52, -0.6), (0.28, -0.6), smooth=1),
            polygon(
                "tulip", (-0.17, -1.25), (0, -1.08), (0.17, -1.25), (0.13, -0.85), (-0.13, -0.85), smooth=1
            ),
            polygon(
                "body",
                *((-0.24, -0.4), (0.24, -0.4), (0.16, -0.15), (0.58, 0.25), (0.5, 0.7), (0.26, 1.0)),
                *((-0.26, 1.0), (-0.5, 0.7), (-0.58, 0.25), (-0.16, -0.15)),
                smooth=2,
            ),
        ),
        {
            "body": Material(ANY, 0.5, 0.75, "zigzag", 4.0, 0.6),
            "stem": Material((0.31,), 0.7, 0.45),
            "tulip": Material((0.97,), 0.85, 0.92),
        },
    ),
    ObjectClass(
        "balloon",
        (
            line("leather", 0.035, (-0.42, 0.25), (-0.16, 0.85), smooth=0),
            line("leather", 0.035, (0.42, 0.25), (0.16, 0.85), smooth=0),
            line("leather", 0.03, (0, 0.4), (0, 0.85), smooth=0),
            polygon(
                "body",
                (0, -1.05),
                (0.8, -0.85),
                (0.85, -0.1),
                (0.25, 0.55),
                (-0.25, 0.55),
                (-0.85, -0.1),
                (-0.8, -0.85),
                smooth=3,
            ),
            line("band", 0.17, (-0.68, -0.3), (-0.3, -0.22), (0.3, -0.22), (0.68, -0.3), smooth=2),
            box("basket", -0.2, 0.82, 0.2, 1.1),
        ),
        {
            "body": Material(ANY, 0.75, 0.9, "ribs", 5.0, 0.9, 0.12),
            "band": Material((0.14,), 0.1, 0.98, "zigzag", 7.0, 0.5),
            "basket": Material((0.08,), 0.65, 0.5, "checks", 12.0, 0.7),
        },
        stands=False,
    ),
    ObjectClass(
        "clock",
        (
            line("metal", 0.13, (-0.35, 0.65), (-0.52, 0.95), smooth=0),
            line("metal", 0.13, (0.35, 0.65), (0.52, 0.95), smooth=0),
            ellipse("bell", -0.45, -0.68, 0.3, 0.2, -38),
            ellipse("bell", 0.45, -0.68, 0.3, 0.2, 38),
            line("metal", 0.08, (0, -0.65), (0, -0.92), smooth=0),
            ellipse("body", 0, 0.1, 0.76, 0.76),
            ellipse("white", 0, 0.1, 0.53, 0.53),
            *(
                ellipse("dark", x, 0.1 + y, 0.05, 0.05)
                for x, y in ((0.42, 0), (-0.42, 0), (0, 0.42), (0, -0.42))
            ),
            line("dark", 0.075, (0, 0.1), (0, -0.25), smooth=0),
            line("hand", 0.075, (0, 0.1), (0.26, 0.26), smooth=0),
        ),
        {
            "body": Material(ANY, 0.6, 0.7, "rings", 22.0, 0.8),
            "bell": Material((0.12,), 0.7, 0.85),
            "hand": Material((0.99,), 0.85, 0.8),
        },
    ),
    ObjectClass(
        "robot",
        (
            line("metal", 0.05, (0, -0.8), (0, -1.05), smooth=0),
            ellipse("bulb", 0, -1.08, 0.09, 0.09),
            line("metal", 0.13, (-0.42, 0.0), (-0.75, 0.15), (-0.72, 0.5), smooth=1),
            line("metal", 0.13, (0.42, 0.0), (0.75, 0.15), (0.72, 0.5), smooth=1),
            box("metal", -0.34, 0.6, -0.1, 1.0),
            box("metal", 0.1, 0.6, 0.34, 1.0),
            box("body", -0.5, -0.18, 0.5, 0.7, smooth=1),
            box("face", -0.44, -0.85, 0.44, -0.22, smooth=1),
            box("screen", -0.33, -0.74, 0.33, -0.34),
            ellipse("eye", -0.16, -0.56, 0.1, 0.1),
            ellipse("eye", 0.16, -0.56, 0.1, 0.1),
        ),
        {
            "body": Material((*COOL, 0.08, 0.15), 0.4, 0.7, "checks", 4.0, 0.82),
            "face": Material((0.58,), 0.15, 0.8),
            "screen": Material((0.6,), 0.6, 0.2),
            "eye": Material((0.42,), 0.7, 1.0),
            "bulb": Material((0.0,), 0.85, 0.95),
        },
    ),
)
