"""Noto Emoji as a set of images: 3,786 colour images, 64x64, with transparency, in folders train/CLASS and test/CLASS.

npm pack emoji-datasource-google@16.0.0
python examples/make_emoji.py emoji-datasource-google-16.0.0.tgz FOLDER

The images are Google's (Apache License 2.0), packed by emoji-datasource (MIT). Variants of skin colour stay on one side of the
split, so that no test image is a training image in another colour.
"""

import json
import sys
import tarfile
import zlib
from pathlib import Path

IMAGES = "package/img/google/64/"
TEST_SHARE = 8  # one name in so many


def main(package: str, folder: str) -> None:
    with tarfile.open(package) as tar:
        listing = tar.extractfile("package/emoji.json")
        assert listing is not None
        places = {}
        for emoji in json.load(listing):
            split = "train" if zlib.crc32(emoji["unified"].encode()) % TEST_SHARE else "test"
            for variant in (emoji, *emoji.get("skin_variations", {}).values()):
                places[IMAGES + variant["image"]] = Path(folder, split, emoji["category"].replace(" & ", "_and_"))
        for member in tar:
            if (place := places.get(member.name)) is not None and (file := tar.extractfile(member)) is not None:
                place.mkdir(parents=True, exist_ok=True)
                (place / Path(member.name).name).write_bytes(file.read())


if __name__ == "__main__":
    main(*sys.argv[1:3])
