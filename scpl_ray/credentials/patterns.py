"""What looks like a credential in text, and its mask.

The prefixes are those that the issuers publish for secret scanners (GitHub's list of supported secrets and the rules of
gitleaks), so that no entropy has to be guessed. Every pattern is linear in the length of the text: what repeats is
bounded or begins at a character that it does not contain, because the text may come from a model.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterable, Iterator, Mapping

MASK = "***"
TOKENS = re.compile(
    r"\b(?:(?:hf|api_org)_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|(?:sk|pplx|gsk|xai|nvapi|tskey|r8)[-_](?=[A-Za-z0-9_-]{0,200}[0-9])[A-Za-z0-9_-]{20,}"  # OpenAI and others
    r"|gh[oprsu]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}"  # GitHub
    r"|gl(?:pat|ptt|dt|rt|cbt|ft|imt|agent|oas|soat|ffct)-[A-Za-z0-9_=.-]{20,}"  # GitLab
    r"|(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}"  # AWS
    r"|xox[abceoprs](?:\.xox[abp])?-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{10,}"  # Slack
    r"|AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{28}|ya29\.[A-Za-z0-9_-]{20,}"  # Google
    r"|(?:npm_|dckr_pat_|dop_v1_|doo_v1_|hvs\.|glc_|glsa_|shpat_|shpss_|figd_|ntn_|lin_api_)[A-Za-z0-9_=+-]{20,}"
    r"|pypi-AgE[A-Za-z0-9_-]{40,}|rubygems_[a-f0-9]{48}|dapi[a-f0-9]{32}|PMAK-[a-f0-9]{24}-[a-f0-9]{34}"
    r"|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{24,}"  # Stripe
    r"|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"  # SendGrid
    r"|SK[a-f0-9]{32}|[0-9]{8,10}:AA[A-Za-z0-9_-]{33}|ATATT3[A-Za-z0-9_=-]{50,}"  # Twilio, Telegram, Atlassian
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"  # JSON web tokens
    r")(?![A-Za-z0-9])"
)
HOOKS = re.compile(r"(hooks\.slack\.com/(?:services|workflows)/|discord(?:app)?\.com/api/webhooks/)[A-Za-z0-9/_+-]+")
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
PRIVATE_KEY_END = re.compile(r"-----END [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
BEARER = re.compile(r"\b([Bb]earer\s{1,8})(?=\S{0,400}[0-9])[A-Za-z0-9._~+/=-]{12,}")
BASIC = re.compile(r"\b([Bb]asic\s{1,8})([A-Za-z0-9+/_-]{4,2000}={0,2})")
HEADER = re.compile(
    r"""((?:proxy-)?authorization\\?["']?\s{0,8}[:=]\s{0,8}\\?["']?(?:(?:basic|bearer|token|digest|negotiate|apikey)"""
    r"""\s{1,8})?|\b(?:set-)?cookie\\?["']?:\s{0,8}\\?["']?)([^\s"',\\][^\s"'\\]*)""",
    re.IGNORECASE,
)
USER_INFO = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/@:]*:[^\s/@]+@")
USER_ALONE = re.compile(r"\b((?:[A-Za-z]{1,10}\+)?(?:https?|ftp|wss?)://)[^\s/@]+@", re.IGNORECASE)
"""In addresses of these schemes a name alone is a token; ``ssh://git@host`` is not."""
PARAMETER = re.compile(
    r"([?&;][A-Za-z0-9_.-]{0,60}(?:token|key|secret|password|passwd|pwd|signature|credential|sig)=)[^&\s#'\"]+",
    re.IGNORECASE,
)
FLAG = re.compile(
    r"(?<![\w-])(--?(?:[a-z]{1,20}-){0,4}(?:password|passwd|passphrase|token|api-?key|secret|(?:secret|access)-key)"
    r"(?:\s{1,4}|=))(?!-)(\S+)"
)
ASSIGNED = re.compile(
    r"""(?<![\w.-])([A-Za-z_][\w.-]{0,80})"""  # the name
    r"""(\\?["']?\s{0,4}(?:=>|:=|:|=(?!=))\s{0,4})"""
    r"""(\\?"[^"\n]{0,2000}"|\\?'[^'\n]{0,2000}'|[^\s"'`,;&(){}\[\]<>|]+)"""  # the value
    r"""(?=(\s*(?:\n|$))?)"""
)
SECRET_NAME = re.compile(
    r"(?:password|passwd|passphrase|secret|api[_.-]?key|apikey|(?:secret|access|private|account|signing|encryption|auth)"
    r"[_.-]?key|credentials?|(?:^|[_.-])(?:pass|pwd|pat))$",
    re.IGNORECASE,
)
TOKEN_NAME = re.compile(r"(?:^|[_.-]|[a-z](?=T))(?:auth_?|access_?|refresh_?|session_?)?token$", re.IGNORECASE)
TEXT_TOKENS = re.compile(
    r"(?:^|[_.-])(?:bos|eos|pad|unk|sep|cls|mask|image|audio|video|special|stop|start|end|first|last|next|per|prompt|new|"
    r"added|begin|think)_?token$",
    re.IGNORECASE,
)
"""Names of a tokenizer's own tokens, which are no secret."""
SUSPECT = re.compile(
    r"(?:hf|api_org|sk|pplx|xai|nvapi|tskey|r8|gh[oprsu]|github_pat|npm|dckr_pat|do[op]_v1|gl[cs]a?|shp(?:at|ss)|figd|ntn"
    r"|lin_api|rubygems|whsec)[-_]|gl[a-z]{2,5}-|(?:akia|asia|abia|acca)[a-z0-9]{16}|xox[a-z]|xapp-|aiza|gocspx-|ya29\."
    r"|hvs\.|pypi-age|(?:dapi|sk)[a-f0-9]{32}|pmak-|sg\.[a-z0-9_-]{16}|[0-9]:aa[a-z0-9_-]{33}|atatt3|eyj[a-z0-9_-]{8}"
    r"|hooks\.slack|discord|bearer|basic|authorization|cookie|://[^\s/@]+@"
    r"|(?:pass(?:word|wd|phrase)?|secret|key|credentials?|pwd|pat|token|sig(?:nature)?)\\?[\"']?\s{0,4}(?:[:=]|$)"
    r"|-(?:pass(?:word|wd|phrase)|token|api-?key|secret|key)\s"
)
"""What a line in lower case must hold for any of the patterns above to find something that begins in it. Most lines
hold nothing of it, and looking takes a small part of the time of masking."""
GOES_ON = 3
"""Lines, blank ones not counted, into which a pattern can reach from the one where it begins: ``Authorization``, ``:``,
``basic`` and the value may each stand on a line of its own."""
PLAIN = re.compile(r"(?:none|null|true|false|nan|\*\*\*|\.\.\.|str|bytes|string|required|optional)?", re.IGNORECASE)
"""Values that hide nothing."""
NAMES = re.compile(
    r"(?:^|_)(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|PASS|CREDENTIALS?|PAT|AUTH)$|(?:APIKEY|PASSWORD)$|_PWD$",
    re.IGNORECASE,
)
"""Environment variables that hold a credential."""
SHORTEST = 8
"""Values of variables with fewer characters than this are not masked: they could also occur in ordinary text."""


def held_by(environment: Mapping[str, str]) -> list[str]:
    """Values of the environment variables whose names look like those of credentials, the longest first."""
    values = {v for name, v in environment.items() if NAMES.search(name) and len(v) >= SHORTEST and v.isprintable()}
    return sorted(values, key=len, reverse=True)


def mask(text: str, known: Iterable[str] = ()) -> str:
    """The text with ``***`` in place of the ``known`` credentials and of everything that looks like a credential."""
    for value in known:
        text = text.replace(value, MASK)
    if "PRIVATE KEY" in text:
        text = _without_private_keys(text)
    return "".join(_mask_block(block) if suspect else block for suspect, block in _blocks(text))


def _blocks(text: str) -> Iterator[tuple[bool, str]]:
    """The text in pieces of whole lines, each with whether something in it may have to be masked."""
    block: list[str] = []
    suspect, left = False, 0
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        begins = SUSPECT.search(line.lower()) is not None
        if suspect != (begins or left > 0):
            yield suspect, "".join(block)
            block, suspect = [], not suspect
        left = GOES_ON if begins else left - (not line.isspace())
        block.append(line)
    yield suspect, "".join(block)


def _mask_block(text: str) -> str:
    """The text after every pattern."""
    text = USER_ALONE.sub(rf"\g<1>{MASK}@", USER_INFO.sub(rf"\g<1>{MASK}@", text))
    text = HOOKS.sub(rf"\g<1>{MASK}", PARAMETER.sub(rf"\g<1>{MASK}", text))
    text = BEARER.sub(rf"\g<1>{MASK}", BASIC.sub(_basic, HEADER.sub(rf"\g<1>{MASK}", text)))
    return TOKENS.sub(MASK, FLAG.sub(rf"\g<1>{MASK}", ASSIGNED.sub(_assigned, text)))


def masked(text: object) -> str:
    """Apply :func:`mask` with the credentials in this process's environment."""
    return mask(str(text), held_by(os.environ))


def _without_private_keys(text: str) -> str:
    kept, at = [], 0
    while begin := PRIVATE_KEY.search(text, at):
        kept += [text[at : begin.start()], MASK]
        end = PRIVATE_KEY_END.search(text, begin.end())
        at = end.end() if end else len(text)
    return "".join([*kept, text[at:]])


def _basic(found: re.Match[str]) -> str:
    """Mask what is a name and a password in base64, which tells it from words after "basic"."""
    try:
        padded = found[2].rstrip("=") + "=" * (-len(found[2].rstrip("=")) % 4)
        decoded = base64.b64decode(padded, altchars=b"-_" if set(found[2]) & set("-_") else None, validate=True)
    except (binascii.Error, ValueError):
        return found[0]
    return found[1] + MASK if b":" in decoded and decoded.isascii() else found[0]


def _assigned(found: re.Match[str]) -> str:
    """Mask the value of a name that is a secret's, as far as the value can be one."""
    name, between, value = found[1], found[2], found[3]
    quote = re.match(r"\\?[\"']", value)
    bare = value[quote.end() : -1].removesuffix("\\") if quote else value
    if PLAIN.fullmatch(bare) or bare.startswith(("$", "<", "os.", "***", "//")):
        return found[0]
    if TOKEN_NAME.search(name):
        if TEXT_TOKENS.search(name) or len(bare) < SHORTEST or re.search(r"\s", bare) or not re.search(r"[0-9]", bare):
            return found[0]
    elif not SECRET_NAME.search(name):
        return found[0]
    elif not quote and ":" in between and "=" not in between and found[4] is None and not re.search(r"[0-9]", bare):
        return found[0]  # a word of a sentence, such as "password: wrong, try again"
    opened, closed = (quote[0], value[len(quote[0]) + len(bare) :]) if quote else ("", "")
    return f"{name}{between}{opened}{MASK}{closed}"
