"""Detectors of personal data and secrets, by name; loaded by the worker when the first text is masked."""

from __future__ import annotations

from collections.abc import Sequence

from aiobs_core.privacy.detectors import contact, network, numbers, safe_harbor, secrets
from aiobs_core.privacy.detectors._search import Find, Span
from aiobs_core.privacy.detectors.secrets import is_secret_name

__all__ = ["Find", "Span", "built_in", "is_secret_name"]


def built_in(regions: Sequence[str]) -> dict[str, Find]:
    """Every built-in detector, the ones that win over others first.

    Args:
        regions: Countries (ISO 3166) whose national notation of telephone numbers counts.
    """
    return {
        "private_key": secrets.find_private_key,
        "jwt": secrets.find_jwt,
        "api_key": secrets.find_api_key,
        "url_credentials": network.find_url_credentials,
        "credential": secrets.find_credential,
        "email": contact.find_email,
        "iban": numbers.find_iban,
        "national_id": numbers.find_national_id,
        "card": numbers.find_card,
        "phone": contact.phone_finder(regions),
        "mac": network.find_mac,
        "ip": network.find_ip,
        "secret": secrets.find_secret,
        "url": safe_harbor.find_url,
        "date": safe_harbor.find_date,
        "zip_code": safe_harbor.find_zip_code,
        "record_number": safe_harbor.find_record_number,
    }
