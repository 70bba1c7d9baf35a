"""The compiled part of the package, ``ajepa._fbank``; everything else stands in pyproject.toml.

It is optional: where it cannot be compiled the package installs without it, and LogMel uses torch alone.
"""

import sysconfig

from setuptools import Extension, setup

# One build serves all versions of CPython from 3.10 on, except those without a global lock.
LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            "ajepa._fbank",
            sources=["ajepa/_fbank.c"],
            # The second keeps the roundings of single steps; the third lets comparisons be vectorised.
            extra_compile_args=["-O3", "-ffp-contract=off", "-fno-trapping-math"],
            define_macros=[("Py_LIMITED_API", "0x030A0000")] if LIMITED_API else [],
            py_limited_api=LIMITED_API,
            optional=True,
        )
    ],
    exclude_package_data={"ajepa": ["*.c"]},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if LIMITED_API else {},
)
