"""Encrypts or decrypts a file with pyrage: age_peer.py encrypt IN OUT RECIPIENT… | decrypt IN OUT IDENTITY_FILE"""

import sys

import pyrage

verb, source, target, *keys = sys.argv[1:]
if verb == "encrypt":
    pyrage.encrypt_file(source, target, [pyrage.x25519.Recipient.from_str(key) for key in keys])
else:
    lines = open(keys[0], encoding="ascii").read().split("\n")
    identities = [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith("AGE-SECRET-KEY-1")]
    pyrage.decrypt_file(source, target, identities)
