"""Programs for developers: demo, drills, benchmarks and checks of the product; not part of the package."""

import edge as edge  # turns the dependencies' usage reports off before any of them is imported
