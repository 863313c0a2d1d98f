"""Is a manifest of the shape that its platform takes? For platforms that are not run."""


def text(value):
    return isinstance(value, str) and value != ""


def texts(value):
    return isinstance(value, list) and all(map(text, value))


def wrong(value, shape, path=""):
    """The first place where `value` is not of `shape`, or nothing.

    A function says whether a value is right; a list has the shape of its items, a dict those of its members and no
    others: "!" marks one that has to be there, and "*" is any name.
    """
    if callable(shape):
        return None if shape(value) else f"{path} is {value!r}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{path} is no list"
        found = (wrong(item, shape[0], f"{path}[{at}]") for at, item in enumerate(value))
        return next(filter(None, found), None)
    if not isinstance(value, dict):
        return f"{path} is no table"
    names = {name.rstrip("!"): inner for name, inner in shape.items()}
    for name in shape:
        if name.endswith("!") and name[:-1] not in value:
            return f"{path}.{name[:-1]} is missing"
    for name, item in value.items():
        inner = names.get(name, names.get("*"))
        if inner is None:
            return f"{path}.{name} does not exist"
        if found := wrong(item, inner, f"{path}.{name}"):
            return found
    return None
