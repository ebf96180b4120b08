"Package metadata, all of it read from settings.ini."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

CLASSIFIER_OF_STATUS = {
    "1": "Planning", "2": "Pre-Alpha", "3": "Alpha", "4": "Beta", "5": "Production/Stable", "6": "Mature", "7": "Inactive",
}
SPDX_OF_LICENSE = {"apache2": "Apache-2.0"}

root = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(root / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]


def extras():
    "Every NAME_requirements as the extra NAME; `dev` holds all of them."
    suffix = "_requirements"
    found = {key.removesuffix(suffix): value.split() for key, value in settings.items() if key.endswith(suffix)}
    return found | {"dev": sorted({requirement for requirements in found.values() for requirement in requirements})}


setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    url=settings["git_url"],
    project_urls={"Documentation": settings["doc_host"] + settings["doc_baseurl"]},
    keywords=settings["keywords"].split(),
    license=SPDX_OF_LICENSE[settings["license"]],
    license_files=["LICENSE"],
    classifiers=[
        f"Development Status :: {settings['status']} - {CLASSIFIER_OF_STATUS[settings['status']]}",
        f"Intended Audience :: {settings['audience']}",
        f"Natural Language :: {settings['language']}",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=f">={settings['min_python']}",
    install_requires=settings["requirements"].split(),
    extras_require=extras(),
    packages=find_packages(include=["ml_pkg", "ml_pkg.*"]),
    package_data={"ml_pkg": ["data/*.csv", "templates/*", "py.typed"]},
    entry_points={
        "console_scripts": settings["console_scripts"].split(),
        "ml_pkg.sinks": [f"mlflow={settings['lib_path']}.mlflow_sink:mlflow_sink"],
        "nbdev": [f"{settings['lib_name']}={settings['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
