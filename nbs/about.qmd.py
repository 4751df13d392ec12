"""---
title: About
description: What rlgen is, its papers, and its licence
repo-actions: false
---"""
from rlgen._site import front_page

print(front_page('', 'Papers', 'Contributing and licence'))
