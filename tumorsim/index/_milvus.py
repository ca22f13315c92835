"""Candidates from a Milvus collection, in a file or on a server, which also holds the archive."""

import base64
import hashlib
import json
import logging
import time
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from tumorsim._validation import check_text, import_extra, is_missing, printable
from tumorsim.exceptions import IndexMismatchError
from tumorsim.index._address import is_file, token_for
from tumorsim.index._exact import CandidateEngine, Coordinates, Frame, padded
from tumorsim.index._tables import plain_scalar

FORMAT = "tumorsim-collection"
SCHEMA_VERSION = 2
DESCRIBED = ("fingerprint", "center", "unit", "basis")
ABOUT = "tumorsim"  # the collection's property that holds its description
ROW_LENGTH = 65_535  # characters, the most that Milvus allows
BATCH = 2_000  # rows per request, whose size Milvus limits to 64 MB
LEAST_WIDTH = 2  # dimensions that Milvus requires
QUERIES = 1_000  # per request; Milvus allows 16,384


class Collection:
    """One collection of a Milvus: one row per tumor with its id, point, embedding and metadata.

    The primary key is the SHA-256 of an id, so that no text of a user enters an expression of Milvus.
    """

    def __init__(self, uri, name, *, new=False):
        self.uri, self.name = check_text(uri, "uri"), check_text(name, "collection")
        pymilvus = import_extra("pymilvus", "engine='milvus'", "milvus")
        if is_file(uri) and not new and not Path(uri).exists():
            raise IndexMismatchError(f"The file of {self} does not exist. Fit an index to make it.")
        token = token_for(uri)
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # what fails is raised here
        try:
            self._client = pymilvus.MilvusClient(uri, token=token)
        except Exception as err:
            raise ConnectionError(f"No Milvus answers at '{uri}': {_reason(err)}.") from err

    def _ask(self, what, *args, **options):
        """Return what a method of the client returns, on this collection; its exceptions become ours."""
        try:
            return getattr(self._client, what)(self.name, *args, **options)
        except Exception as err:
            raise ConnectionError(f"{self} could not do '{what}': {_reason(err)}.") from err

    def __str__(self):
        return f"Collection '{self.name}' at '{self.uri}'"

    def exists(self):
        """Tell whether the collection is there."""
        return self._ask("has_collection")

    def create(self, archive):
        """Make the collection, which is dropped where it exists, and fill it with an `Archive`."""
        from pymilvus import DataType

        frame = Frame.of(archive.embeddings, archive.coordinates)
        basis = archive.coordinates.basis
        about = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "fingerprint": archive.fingerprint}
        about |= archive.description() | {"center": frame.center.tolist(), "unit": frame.unit}
        about["basis"] = None if basis is None else basis.tolist()
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("point", DataType.FLOAT_VECTOR, dim=max(LEAST_WIDTH, len(frame.center)))
        schema.add_field("row", DataType.VARCHAR, max_length=ROW_LENGTH)
        index = self._client.prepare_index_params()
        index.add_index("point", index_type="HNSW", metric_type="L2", params={"M": 32, "efConstruction": 200})
        if self.exists():
            records = archive.metadata.to_dict("records")
            for embedding, record in zip(archive.embeddings, records, strict=True):
                _pack(np.asarray(embedding), record, time.time_ns())  # refuses before anything is lost
            self._ask("drop_collection")
        options = {"consistency_level": "Strong", "properties": {ABOUT: json.dumps(about)}}
        self._ask("create_collection", schema=schema, index_params=index, **options)
        self.upsert(archive.embeddings, archive.metadata, frame)

    def about(self):
        """Return the description of the archive that `create` was given."""
        if not self.exists():
            raise IndexMismatchError(f"{self} does not exist. Fit an index with engine='milvus' to make it.")
        try:
            about = json.loads(self._ask("describe_collection")["properties"][ABOUT])
            version, *_ = (about[key] for key in ("schema_version", *DESCRIBED))
        except (KeyError, TypeError, ValueError) as err:
            raise IndexMismatchError(f"{self} was not made by tumorsim. Give another name.") from err
        if version != SCHEMA_VERSION:
            rule = f"has schema version {printable(version)}; this tumorsim reads {SCHEMA_VERSION}"
            raise IndexMismatchError(f"{self} {rule}. Update tumorsim, or fit it again with overwrite=True.")
        return about

    def count(self):
        """Return the number of tumors."""
        return self._ask("query", filter="", output_fields=["count(*)"])[0]["count(*)"]

    def upsert(self, embeddings, table, frame, after=None):
        """Write rows in place of those with the same ids, whose order they keep; new ones follow `after`."""
        last = [] if after is None else self._ask("get", ids=[_key(after)], output_fields=["row"])
        now = max([time.time_ns(), *(json.loads(row["row"])["order"] + 1 for row in last)])  # clocks jump
        for start in range(0, len(table), BATCH):
            part = slice(start, start + BATCH)
            some, records = np.asarray(embeddings[part]), table.iloc[part].to_dict("records")
            keys = [_key(record["tumor_id"]) for record in records]
            order = {key: now + start + i for i, key in enumerate(keys)}
            held = self._ask("get", ids=keys, output_fields=["row"])
            order |= {row["key"]: json.loads(row["row"])["order"] for row in held}
            points = padded(frame.points(some), LEAST_WIDTH)
            rows = [
                {"key": key, "point": point, "row": _pack(embedding, record, order[key])}
                for key, point, embedding, record in zip(keys, points, some, records, strict=True)
            ]
            self._ask("upsert", rows)

    def delete(self, tumor_ids):
        """Remove rows by id."""
        for start in range(0, len(tumor_ids), BATCH):
            self._ask("delete", ids=[_key(tumor) for tumor in tumor_ids[start : start + BATCH]])

    def search(self, points, n_candidates):
        """Return a list of keys per query of float32 points (n_queries, n_coordinates)."""
        options = {"limit": n_candidates, "output_fields": ["key"]}
        options["search_params"] = {"metric_type": "L2", "params": {"ef": max(128, n_candidates)}}
        found = []
        for start in range(0, len(points), QUERIES):
            data = list(padded(points[start : start + QUERIES], LEAST_WIDTH))
            found += [[hit.id for hit in line] for line in self._ask("search", data=data, **options)]
        return found

    def read(self):
        """Return embeddings (n_rows, n_features) and a list of metadata dicts, in the order of writing."""
        options = {"batch_size": BATCH, "output_fields": ["row"], "consistency_level": "Strong"}
        iterator, rows = self._ask("query_iterator", filter="", **options), []
        try:
            while batch := iterator.next():
                rows += [json.loads(record["row"]) for record in batch]
            iterator.close()
            rows.sort(key=lambda row: row["order"])
            packed = [np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in rows]
            content = np.stack(packed).astype(np.float32), [row["metadata"] for row in rows]
        except Exception as err:
            raise IndexMismatchError(f"{self} cannot be read: {_reason(err)}.") from err
        if len(rows) != self.count():
            raise IndexMismatchError(f"{self} gives {len(rows)} of {self.count()} rows. Read it again.")
        return content


class MilvusEngine(CandidateEngine):
    """The graph lives in a collection; this process keeps embeddings and metadata for exact results."""

    def __init__(self, archive, uri, collection):
        super().__init__(archive.embeddings, archive.coordinates)
        self.archive, self._address = archive, (uri, collection)

    @cached_property
    def collection(self):
        """The collection; small archives are searched without connecting to it."""
        return Collection(*self._address)

    def publish(self, *, overwrite):
        """Fill the collection with all rows, in place of what it holds if `overwrite`."""
        self.collection = Collection(*self._address, new=True)
        if self.collection.exists() and not overwrite:
            count, fingerprint = self.collection.count(), self.collection.about()["fingerprint"]
            held = f"{self.collection} exists: {count} tumors of fingerprint {fingerprint!r}"
            raise ValueError(f"{held}. Give fit(…, overwrite=True) to replace it, or another name.")
        self.collection.create(self.archive)

    def write(self, archive, written, removed):
        """Follow a change to `archive`, where `written` rows differ and the ids `removed` are gone."""
        frame = self.frame  # refuses a collection that others have changed
        if archive.metric == "whitened":  # every point depends on all rows
            self.collection.create(archive)
            return
        if len(removed):
            self.collection.delete(removed)
        if len(written):
            table, last = archive.metadata.iloc[written], self.archive.ids[-1]
            self.collection.upsert(archive.embeddings[written], table, frame, after=last)

    @cached_property
    def _keys(self):
        """The pandas Index of primary keys, by row."""
        return pd.Index([_key(tumor) for tumor in self.archive.ids])

    @property
    def frame(self):
        """The frame that the collection was filled with."""
        return self._ready()

    def _build(self):
        """Return the frame that the collection was filled with, if it holds this archive."""
        collection, about = self.collection, self.collection.about()
        if about["fingerprint"] != self.archive.fingerprint:
            found = f"has fingerprint {about['fingerprint']!r}, and the index {self.archive.fingerprint!r}"
            raise IndexMismatchError(f"{collection} {found}. Embed both with the same model.")
        count = collection.count()
        if count != len(self.embeddings):
            raise _changed(collection, f"it holds {count} tumors, and the index {len(self.embeddings)}")
        basis = None if about["basis"] is None else np.array(about["basis"])
        coordinates = Coordinates(self.coordinates.features, self.coordinates.unit_length, basis)
        return Frame(coordinates, np.array(about["center"]), about["unit"])

    def _query(self, built, points, n_candidates):
        """Return rows (n_queries, n_candidates) from the collection."""
        found = self.collection.search(points, n_candidates)
        rows = np.full((len(points), n_candidates), -1, dtype=np.int64)
        place = np.arange(n_candidates) < np.array([len(line) for line in found])[:, None]
        rows[place] = self._keys.get_indexer([key for line in found for key in line])
        if (rows[place] < 0).any():
            raise _changed(self.collection, "it holds tumors that the index does not hold")
        return rows


def _changed(collection, how):
    """Return the error that a collection is no longer what an index was read from."""
    return IndexMismatchError(
        f"{collection} has been changed since this index was read: {how}. Read it again with "
        "TumorIndex.connect, or fill it again with fit(…, overwrite=True)."
    )


def _key(tumor_id):
    """Return the primary key of an id."""
    return hashlib.sha256(tumor_id.encode("utf-8", "surrogatepass")).hexdigest()


def _reason(err):
    """Return what an exception of pymilvus says."""
    return printable(getattr(err, "message", "") or err)


def _pack(embedding, record, order):
    """Return embedding and metadata of one tumor as JSON."""
    metadata = {name: None if is_missing(v) else plain_scalar(v) for name, v in record.items()}
    packed = base64.b64encode(embedding.astype("<f4").tobytes()).decode("ascii")
    text = json.dumps({"order": order, "embedding": packed, "metadata": metadata})
    if len(text) > ROW_LENGTH:
        what = f"Metadata of tumor {printable(record['tumor_id'])!r} take more than the {ROW_LENGTH} bytes"
        raise ValueError(f"{what} that Milvus holds per row. Leave out long columns.")
    return text
