"""Which renderer tells which kind of answer."""

from common.jobs import Kind
from common.render import chat, completions
from common.render.frames import Shape

SHAPES: dict[Kind, Shape] = {"chat": chat, "completion": completions}
