"""The OpenAPI document of this server: what each route takes and answers, as one value.

Built from what the code decides by where there is such a thing: the bodies' structs, the table of
refusals, the bounds and patterns. A test compares its paths with the routes that are served.
"""
