"""Signatures of a revision's files: OpenSSF Model Signing v1.0 with an elliptic key, as `model_signing` has them.

A bundle (`model.sig`) holds an in-toto statement that lists every file with its sha256, in a DSSE envelope. It says who
vouched for these bytes, not that they are harmless.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature as WrongSignature
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidConfiguration, InvalidSignature

FILE = "model.sig"
UNSIGNED = frozenset({FILE, ".gitattributes", ".gitignore"})
"""Paths that no signature covers, here and in `model_signing`; whatever else is there must be listed."""

MOST_BYTES = 4 << 20  # of a bundle
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}


@dataclass(frozen=True, slots=True)
class Signer:
    """`fingerprint` is the sha256 of the public key's PEM, the bundle's own name for the key."""

    fingerprint: str


def sign(files: Mapping[str, str], key_pem: bytes, *, name: str) -> bytes:
    """The bundle over path → sha256. Raises `InvalidConfiguration` for a key that can't sign."""
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidConfiguration(f"the key can't be read: {error}"[:300], hint=_HOW_TO_MAKE_ONE) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        raise InvalidConfiguration("the key is none of P-256, P-384 and P-521", hint=_HOW_TO_MAKE_ONE)
    payload = json.dumps(_statement(files, name)).encode()
    signature = key.sign(_signed_bytes(payload), ec.ECDSA(_HASHES[key.curve.name]))
    bundle = {
        "mediaType": _BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": _fingerprint(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle).encode()


_HOW_TO_MAKE_ONE = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


def verify(bundle: bytes, files: Mapping[str, str], public_key_pem: bytes) -> Signer:
    """Raises `InvalidSignature` unless this key signed exactly these files; `facts["paths"]` are those that differ."""
    key = _public_key(public_key_pem)
    envelope = _envelope(bundle)
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        key.verify(signature, _signed_bytes(payload), ec.ECDSA(_HASHES[key.curve.name]))
    except (KeyError, IndexError, TypeError, ValueError):
        raise InvalidSignature("this is no signature of a model") from None
    except WrongSignature:
        raise InvalidSignature("another key made this signature, or it was altered") from None
    _compare(_listed(payload), files)
    return Signer(_fingerprint(key))


@dataclass(frozen=True, slots=True)
class Statement:
    """What a signature says, proved by nothing. `key` is the fingerprint that it names, `files` path → sha256."""

    key: str | None
    files: Mapping[str, str]


def stated(bundle: bytes) -> Statement:
    """Raises `InvalidSignature` for what is none. Whose key made it takes the key: see `verify`."""
    envelope = _envelope(bundle)
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
    except (KeyError, TypeError, ValueError):
        raise InvalidSignature("this is no signature of a model") from None
    match parse_json(bundle, error=InvalidSignature):
        case {"verificationMaterial": {"publicKey": {"hint": str() as hint}}} if _FINGERPRINT.fullmatch(hint):
            return Statement(hint, _listed(payload))
    return Statement(None, _listed(payload))


def differing_paths(listed: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Paths of files that are listed with another digest, not listed, or not there."""
    covered = {path: digest for path, digest in found.items() if path not in UNSIGNED}
    return sorted(path for path in listed.keys() | covered.keys() if listed.get(path) != covered.get(path))


def _compare(listed: Mapping[str, str], found: Mapping[str, str]) -> None:
    differing = differing_paths(listed, found)
    if differing:
        raise InvalidSignature(
            f"the signature is of other files: {len(differing)} differ, {differing[0]!a} among them", paths=differing
        )


def _statement(files: Mapping[str, str], name: str) -> dict[str, Any]:
    listed = [(path, files[path]) for path in sorted(files) if path not in UNSIGNED]
    return {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": _root([digest for _, digest in listed])}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": sorted(UNSIGNED | {".git", ".github"}),
            },
            "resources": [{"name": path, "digest": digest, "algorithm": "sha256"} for path, digest in listed],
        },
    }


def _listed(payload: bytes) -> dict[str, str]:
    """Path → sha256 of a verified statement. What it asks to have ignored is not: that is for us to say."""
    statement: Any = parse_json(payload, error=InvalidSignature)
    try:
        resources = statement["predicate"]["resources"]
        listed = {resource["name"]: resource["digest"] for resource in resources}
        is_known = statement["predicateType"] == _PREDICATE and statement["_type"] == _STATEMENT
        is_whole = all(resource["algorithm"] == "sha256" for resource in resources) and len(listed) == len(resources)
        is_whole &= statement["subject"][0]["digest"]["sha256"] == _root([resource["digest"] for resource in resources])
    except (KeyError, IndexError, TypeError, ValueError):
        raise InvalidSignature("the signed statement lists no files") from None
    if not (is_known and is_whole):
        raise InvalidSignature("the signed statement is of another kind, or contradicts itself")
    return listed


def _root(digests: list[str]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()


def _signed_bytes(payload: bytes) -> bytes:
    """DSSE v1 pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _envelope(bundle: bytes) -> dict[str, Any]:
    if len(bundle) > MOST_BYTES:
        raise InvalidSignature(f"a signature of {len(bundle)} bytes; at most {MOST_BYTES} are read")
    found: Any = parse_json(bundle, error=InvalidSignature)
    envelope = found.get("dsseEnvelope") if isinstance(found, dict) else None
    if not isinstance(envelope, dict) or envelope.get("payloadType") != _PAYLOAD:
        raise InvalidSignature("this is no signature of a model")
    return envelope


def _public_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidConfiguration(f"the public key can't be read: {error}"[:300]) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise InvalidConfiguration("the public key is none of P-256, P-384 and P-521")
    return key


def _fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(
        key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()
